"""The step debugger's keys, as it tells them itself (`?`)."""

KEYS = """\
down, j, n     on                      up, k, p     back
page keys      20 on, back             home, end    to the first, the last

c              to the event that led to this one's command
e              to the first that this one led to
b              a breakpoint            B            clear them
r              run to the next         R            run back

/              search                  f, F         again, backwards
g              to a position
m              mark                    '            to the next mark

s              the state before the event, or after
w              only what changed of the state, or all of it
[ ]            scroll the state        { }          scroll the event
a              the events of all services, or of one

d              decide its command again
x              pdb at the entry of the decision
?              this, and back          q            end

A breakpoint:
  type vm_started
  stream vm-web-1
  event.node == "n1" and after.kind == "Running"
  vm-web-1.state.kind == "Running"    stops where it begins to hold
"""
