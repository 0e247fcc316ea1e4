package selftest

import (
	"fmt"
	"strings"

	"weir.dev/extauthz"
)

// probe is a spelling of a path, or of a host, and the one reading that extauthz
// has of it.
type probe struct {
	target, canonical string
	// host changes the host that is asked for; nil leaves it.
	host func(string) string
	// fix says what to set in Envoy where it reads this otherwise.
	fix string
}

const (
	fixNormalize = "set normalize_path: true"
	fixMerge     = "set merge_slashes: true"
	fixEscaped   = "set path_with_escaped_slashes_action: REJECT_REQUEST"
	fixHost      = "let no filter or mutation before ext_authz change the host"
)

func probes() []probe {
	const path = "/weir-self-test/a"
	return []probe{
		{target: path, canonical: path, fix: "add the ext_authz filter to the listener"},
		{target: path + "?q=%2e%2e/b", canonical: path + "?q=%2e%2e/b", fix: fixNormalize},
		{target: "/weir-self-test/./a", canonical: path, fix: fixNormalize},
		{target: "/weir-self-test/x/../a", canonical: path, fix: fixNormalize},
		{target: "/weir-self-test/x/%2e%2e/a", canonical: path, fix: fixNormalize},
		{target: "/weir-self-test/%2E/a", canonical: path, fix: fixNormalize},
		{target: `/weir-self-test\a`, canonical: path, fix: fixNormalize},
		{target: "/weir-self-test//a", canonical: path, fix: fixMerge},
		{target: "//weir-self-test/a", canonical: path, fix: fixMerge},
		{target: "/weir-self-test%2Fa", canonical: path, fix: fixEscaped},
		{target: "/weir-self-test%5Ca", canonical: path, fix: fixEscaped},
		{target: "/weir-self-test/x%2F..%2Fa", canonical: "/weir-self-test/a", fix: fixEscaped},
		{target: path, canonical: path, host: strings.ToUpper, fix: fixHost},
		{target: path, canonical: path, host: func(host string) string { return "weir-self-test." + host }, fix: fixHost},
	}
}

func (p probe) hostOf(host string) string {
	if p.host == nil {
		return host
	}
	return p.host(host)
}

// judge says what is wrong with what came of a probe.
func (p probe) judge(host string, status int, got reading, arrived bool) error {
	asked := p.hostOf(host)
	switch {
	case !arrived && refusesByItself(status) && p.target != p.canonical:
		return nil
	case !arrived:
		return fmt.Errorf("%s%s: the proxy answered with %d and did not ask extauthz; %s", asked, p.target, status, p.fix)
	case status < 300:
		return fmt.Errorf("%s%s: the proxy answered with %d what extauthz refused; set failure_mode_allow: false, and let no filter answer before ext_authz", asked, p.target, status)
	case got.target != p.canonical:
		return fmt.Errorf("%s%s: the proxy reads the path %q, extauthz reads %q; %s", asked, p.target, got.target, p.canonical, p.fix)
	case !extauthz.SameHost(got.host, asked):
		return fmt.Errorf("%s%s: the proxy reads the host %q; %s", asked, p.target, got.host, p.fix)
	}
	return nil
}
