module weir.dev/ratelimit

go 1.26.0
