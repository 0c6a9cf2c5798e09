"""One file per `cps4` command; each is imported only when it is called."""
