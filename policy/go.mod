module weir.dev/policy

go 1.26.0
