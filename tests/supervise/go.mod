module uid-nri-plugin/tests/supervise

go 1.25

require golang.org/x/sys v0.39.0
