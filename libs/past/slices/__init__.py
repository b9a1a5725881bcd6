"""A part of a log that is a log itself: which streams it needs (select), cut out and renumbered (cut), under other names
(anonymize). docs/decisions/0043-slices.md says why it is so."""
