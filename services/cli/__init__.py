"""asvctl: people's hands on the cluster. It speaks HTTP to the gateway, decides nothing and keeps nothing.

    main     the program: options for all commands, exit codes
    where    which API and which token          client   HTTP, answers as problems
    show     tables, JSON, progress             units    sizes and durations
    vm node image task events token cluster console      one module per noun

Its start-up time is what people feel, so modules are imported late, HTTP is the standard library's, and rich is loaded only
when a table goes to a terminal.
"""
