module weir.dev/extauthz

go 1.26.0
