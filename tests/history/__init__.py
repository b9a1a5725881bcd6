"""Logs that earlier code wrote, folded by today's for ever.

    NAME.aslog         the whole log of a story (libs/past/aslog.py): events and recorded commands, as that code wrote them; or
                       (exported) what `asvctl log export --vm … --anonymize` made of one
    NAME.states.json   by service and stream, the state that that code folded it to

Neither is ever written again. What is compared: every value that the frozen state says is what today's says in the same place;
today's may say more. So a field that comes later changes nothing here; one that goes or is renamed has to be named in
`test_history.MOVED`.

    python -m tests.history.make NAME     a new one, by today's code: before a release, and before a version of an event is raised
"""
