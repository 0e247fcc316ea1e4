package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weir.dev/policy/v1alpha1"
)

// onlyGateways checks the targets of a policy for Gateways and listeners.
func (c *checker) onlyGateways(targets []v1alpha1.TargetRef) {
	for i, target := range targets {
		if !holdsListeners(target.Kind) {
			c.fail(CodeInvalid, fmt.Sprintf("spec.targetRefs[%d].kind", i), "%q: policies of kind %s are attached to Gateways, ListenerSets and their listeners", string(target.Kind), c.object.Ref.Kind)
		}
	}
}

func (c *checker) tlsPolicy(spec *v1alpha1.TLSPolicySpec) {
	c.onlyGateways(spec.TargetRefs)
	settingsBlocks(c, v1alpha1.StrategyMerge, false,
		blocks[v1alpha1.TLSSettings]{spec.TargetRefs, &spec.TLSSettings, spec.Defaults, spec.Overrides}, c.tlsSettings)
}

func (c *checker) tlsSettings(at string, spec *v1alpha1.TLSSettings, _ bool) {
	oneOf(c, at+".minVersion", spec.MinVersion, true, v1alpha1.TLS12, v1alpha1.TLS13)
	oneOf(c, at+".maxVersion", spec.MaxVersion, true, v1alpha1.TLS12, v1alpha1.TLS13)
	if spec.MinVersion == v1alpha1.TLS13 && spec.MaxVersion == v1alpha1.TLS12 {
		c.fail(CodeInvalid, at+".maxVersion", "is below minVersion")
	}
	c.count(at+".cipherSuites", len(spec.CipherSuites), 0, len(v1alpha1.CipherSuites()))
	distinct(c, at+".cipherSuites", spec.CipherSuites)
	for i, suite := range spec.CipherSuites {
		oneOf(c, fmt.Sprintf("%s.cipherSuites[%d]", at, i), suite, false, v1alpha1.CipherSuites()...)
	}
	c.count(at+".protocols", len(spec.Protocols), 0, 3)
	distinct(c, at+".protocols", spec.Protocols)
	for i, protocol := range spec.Protocols {
		oneOf(c, fmt.Sprintf("%s.protocols[%d]", at, i), protocol, false, v1alpha1.HTTP11, v1alpha1.HTTP2, v1alpha1.HTTP3)
	}
	if slices.Contains(spec.Protocols, v1alpha1.HTTP3) {
		switch {
		case len(spec.Protocols) == 1:
			c.fail(CodeInvalid, at+".protocols", "HTTP/3 is found by way of HTTP/1.1 or HTTP/2: offer one of them, too")
		case spec.MaxVersion == v1alpha1.TLS12:
			c.fail(CodeInvalid, at+".maxVersion", "HTTP/3 needs TLS 1.3")
		case spec.ClientCertificates != nil:
			c.fail(CodeInvalid, at+".clientCertificates", "Envoy verifies no client certificates over HTTP/3: offer HTTP/1.1 and HTTP/2 only")
		}
	}
	if spec.ClientCertificates != nil {
		c.clientCertificates(at, spec.ClientCertificates)
	}
}

func distinct[T comparable](c *checker, field string, values []T) {
	for i, value := range values {
		if slices.Contains(values[:i], value) {
			c.fail(CodeDuplicateName, fmt.Sprintf("%s[%d]", field, i), "%v is there twice", value)
		}
	}
}

func (c *checker) clientCertificates(at string, spec *v1alpha1.ClientCertificates) {
	field := at + ".clientCertificates"
	oneOf(c, field+".mode", spec.Mode, true, v1alpha1.ClientCertificateRequired, v1alpha1.ClientCertificateOptional)
	c.count(field+".caCertificateRefs", len(spec.CACertificateRefs), 1, 8)
	c.count(field+".crlRefs", len(spec.CRLRefs), 0, 8)
	c.pemRefs(field+".caCertificateRefs", spec.CACertificateRefs)
	c.pemRefs(field+".crlRefs", spec.CRLRefs)
	c.count(field+".subjectAltNames", len(spec.SubjectAltNames), 0, 32)
	if spec.Mode == v1alpha1.ClientCertificateOptional && len(spec.SubjectAltNames) > 0 {
		c.fail(CodeInvalid, field+".subjectAltNames", "go with mode Required: Envoy demands a certificate where it matches names; write an authorization rule instead")
	}
	for i, name := range spec.SubjectAltNames {
		part := fmt.Sprintf("%s.subjectAltNames[%d]", field, i)
		oneOf(c, part+".type", name.Type, false, v1alpha1.SubjectAltNameDNS, v1alpha1.SubjectAltNameURI, v1alpha1.SubjectAltNameEmail, v1alpha1.SubjectAltNameIP)
		set := 0
		for _, pattern := range [][2]string{{"exact", name.Exact}, {"prefix", name.Prefix}, {"suffix", name.Suffix}} {
			c.text(part+"."+pattern[0], pattern[1], false, 512)
			if pattern[1] != "" {
				set++
			}
		}
		if set != 1 {
			c.fail(CodeRequired, part, "needs exactly one of exact, prefix and suffix")
		}
		if _, err := netip.ParseAddr(name.Exact); name.Type == v1alpha1.SubjectAltNameIP && name.Exact != "" && err != nil {
			c.fail(CodeInvalid, part+".exact", "%q is not an IP address", name.Exact)
		}
	}
}

func (c *checker) pemRefs(list string, refs []v1alpha1.PEMRef) {
	for i, ref := range refs {
		part := fmt.Sprintf("%s[%d]", list, i)
		oneOf(c, part+".kind", ref.Kind, true, "ConfigMap", "Secret")
		c.text(part+".name", ref.Name, true, 253)
		c.text(part+".key", ref.Key, false, 253)
	}
}

func (c *checker) headerPolicy(spec *v1alpha1.HeaderPolicySpec) {
	settingsBlocks(c, v1alpha1.StrategyMerge, true,
		blocks[v1alpha1.HeaderSettings]{spec.TargetRefs, &spec.HeaderSettings, spec.Defaults, spec.Overrides},
		func(at string, settings *v1alpha1.HeaderSettings, _ bool) {
			c.headerSettings(at, settings, spec.TargetRefs)
		})
}

func (c *checker) headerSettings(at string, spec *v1alpha1.HeaderSettings, targets []v1alpha1.TargetRef) {
	if spec.ClientAddress == nil && spec.ForwardedClientCert == nil && spec.Server == nil && spec.Security == nil {
		c.fail(CodeRequired, at, "says nothing: set clientAddress, forwardedClientCert, server or security")
	}
	onlyRoutes := slices.ContainsFunc(targets, func(t v1alpha1.TargetRef) bool { return !holdsListeners(t.Kind) })
	for _, part := range []struct {
		name string
		set  bool
	}{{"clientAddress", spec.ClientAddress != nil}, {"forwardedClientCert", spec.ForwardedClientCert != nil}, {"server", spec.Server != nil}} {
		if part.set && onlyRoutes {
			c.fail(CodeInvalid, at+"."+part.name, "is about connections: set it in a policy for Gateways and their listeners only")
		}
	}
	if address := spec.ClientAddress; address != nil {
		c.clientAddress(at, address)
	}
	if cert := spec.ForwardedClientCert; cert != nil {
		oneOf(c, at+".forwardedClientCert.mode", cert.Mode, false, v1alpha1.XFCCSanitize, v1alpha1.XFCCSanitizeSet,
			v1alpha1.XFCCAppendForward, v1alpha1.XFCCForwardOnly, v1alpha1.XFCCAlwaysForwardOnly)
		distinct(c, at+".forwardedClientCert.details", cert.Details)
		for i, detail := range cert.Details {
			oneOf(c, fmt.Sprintf("%s.forwardedClientCert.details[%d]", at, i), detail, false,
				v1alpha1.XFCCSubject, v1alpha1.XFCCURI, v1alpha1.XFCCDNS, v1alpha1.XFCCCert, v1alpha1.XFCCChain)
		}
	}
	if server := spec.Server; server != nil {
		oneOf(c, at+".server.mode", server.Mode, true, v1alpha1.ServerReplace, v1alpha1.ServerIfAbsent, v1alpha1.ServerPassThrough)
		c.visible(at+".server.name", server.Name, 64)
	}
	if spec.Security != nil {
		c.securityHeaders(at, spec.Security)
	}
}

// visible checks the value of a header: printable ASCII.
func (c *checker) visible(field, value string, most int) {
	c.text(field, value, false, most)
	if strings.ContainsFunc(value, func(r rune) bool { return r > 0x7e }) {
		c.fail(CodeInvalid, field, "holds what is not ASCII")
	}
}

func (c *checker) clientAddress(at string, address *v1alpha1.ClientAddress) {
	if (address.TrustedHops != nil) == (len(address.TrustedCIDRs) > 0) {
		c.fail(CodeRequired, at+".clientAddress", "needs exactly one of trustedHops and trustedCIDRs")
	}
	if address.TrustedHops != nil {
		c.within(at+".clientAddress.trustedHops", address.TrustedHops, 1, 16)
	}
	c.count(at+".clientAddress.trustedCIDRs", len(address.TrustedCIDRs), 0, 64)
	distinct(c, at+".clientAddress.trustedCIDRs", address.TrustedCIDRs)
	for i, text := range address.TrustedCIDRs {
		field := fmt.Sprintf("%s.clientAddress.trustedCIDRs[%d]", at, i)
		prefix, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			c.fail(CodeInvalid, field, "%q is not a range of addresses such as 10.0.0.0/8", text)
		case prefix != prefix.Masked():
			c.fail(CodeInvalid, field, "%q has bits beyond its length; write %s", text, prefix.Masked())
		}
	}
}

func (c *checker) securityHeaders(at string, spec *v1alpha1.SecurityHeaders) {
	field := at + ".security"
	oneOf(c, field+".whenPresent", spec.WhenPresent, true, v1alpha1.WhenPresentReplace, v1alpha1.WhenPresentKeep)
	if hsts := spec.StrictTransportSecurity; hsts != nil {
		c.duration(field+".strictTransportSecurity.maxAge", hsts.MaxAge, 0, 17520*time.Hour)
		if hsts.Preload && (!hsts.IncludeSubDomains || durationOr(hsts.MaxAge, 8760*time.Hour) < 8760*time.Hour) {
			c.fail(CodeInvalid, field+".strictTransportSecurity.preload", "browsers take it with includeSubDomains and a maxAge of 8760h or more only")
		}
	}
	oneOf(c, field+".contentTypeOptions", spec.ContentTypeOptions, true, "NoSniff")
	oneOf(c, field+".frameOptions", spec.FrameOptions, true, "Deny", "SameOrigin")
	oneOf(c, field+".referrerPolicy", spec.ReferrerPolicy, true, "no-referrer", "no-referrer-when-downgrade", "origin", "origin-when-cross-origin",
		"same-origin", "strict-origin", "strict-origin-when-cross-origin", "unsafe-url")
	c.visible(field+".contentSecurityPolicy", spec.ContentSecurityPolicy, 4096)
	c.visible(field+".permissionsPolicy", spec.PermissionsPolicy, 4096)
	oneOf(c, field+".crossOriginOpenerPolicy", spec.CrossOriginOpenerPolicy, true, "unsafe-none", "same-origin-allow-popups", "same-origin", "noopener-allow-popups")
	oneOf(c, field+".crossOriginEmbedderPolicy", spec.CrossOriginEmbedderPolicy, true, "unsafe-none", "require-corp", "credentialless")
	oneOf(c, field+".crossOriginResourcePolicy", spec.CrossOriginResourcePolicy, true, "same-site", "same-origin", "cross-origin")
}

func (c *checker) within(field string, value *uint32, least, most uint32) {
	if value != nil && (*value < least || *value > most) {
		c.fail(CodeInvalid, field, "%d is outside of %d to %d", *value, least, most)
	}
}

func (c *checker) edgePolicy(spec *v1alpha1.EdgePolicySpec) {
	c.onlyGateways(spec.TargetRefs)
	settingsBlocks(c, v1alpha1.StrategyMerge, true,
		blocks[v1alpha1.EdgeSettings]{spec.TargetRefs, &spec.EdgeSettings, spec.Defaults, spec.Overrides}, c.edgeSettings)
}

func (c *checker) edgeSettings(at string, spec *v1alpha1.EdgeSettings, _ bool) {
	if *spec == (v1alpha1.EdgeSettings{}) {
		c.fail(CodeRequired, at, "says nothing: set paths, headers, requestID, connections, streams or timeouts")
	}
	if paths := spec.Paths; paths != nil {
		oneOf(c, at+".paths.escapedSlashes", paths.EscapedSlashes, true, v1alpha1.EscapedSlashesReject, v1alpha1.EscapedSlashesRedirect,
			v1alpha1.EscapedSlashesForward, v1alpha1.EscapedSlashesKeep)
		oneOf(c, at+".paths.parameters", paths.Parameters, true, v1alpha1.PathParametersReject, v1alpha1.PathParametersKeep)
	}
	if headers := spec.Headers; headers != nil {
		c.within(at+".headers.maxKiB", headers.MaxKiB, 1, 96)
		c.within(at+".headers.maxCount", headers.MaxCount, 10, 1000)
		oneOf(c, at+".headers.underscores", headers.Underscores, true, v1alpha1.UnderscoresReject, v1alpha1.UnderscoresDrop, v1alpha1.UnderscoresAllow)
	}
	if connections := spec.Connections; connections != nil {
		c.within(at+".connections.max", connections.Max, 1, 1_000_000)
		c.within(at+".connections.bufferKiB", connections.BufferKiB, 32, 65536)
		c.within(at+".connections.maxRequests", connections.MaxRequests, 1, 1<<32-1)
		c.duration(at+".connections.maxDuration", connections.MaxDuration, 0, 720*time.Hour)
	}
	if streams := spec.Streams; streams != nil {
		c.within(at+".streams.maxConcurrent", streams.MaxConcurrent, 1, 10_000)
		c.within(at+".streams.windowKiB", streams.WindowKiB, 64, 65536)
		c.within(at+".streams.connectionWindowKiB", streams.ConnectionWindowKiB, 64, 65536)
		c.within(at+".streams.resetBurst", streams.ResetBurst, 1, 100_000)
		c.within(at+".streams.resetsPerSecond", streams.ResetsPerSecond, 1, 100_000)
	}
	if timeouts := spec.Timeouts; timeouts != nil {
		c.duration(at+".timeouts.handshake", timeouts.Handshake, time.Second, time.Minute)
		c.duration(at+".timeouts.requestHeaders", timeouts.RequestHeaders, 100*time.Millisecond, 5*time.Minute)
		c.duration(at+".timeouts.request", timeouts.Request, 0, 24*time.Hour)
		c.duration(at+".timeouts.streamIdle", timeouts.StreamIdle, 0, 24*time.Hour)
		c.duration(at+".timeouts.connectionIdle", timeouts.ConnectionIdle, 0, 24*time.Hour)
		c.duration(at+".timeouts.drain", timeouts.Drain, time.Second, 5*time.Minute)
	}
}
