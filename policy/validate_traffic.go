package policy

import (
	"fmt"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// trafficSettings checks what a TrafficPolicy says at field, such as "spec".
func (c *checker) trafficSettings(field string, settings *v1alpha1.TrafficSettings) {
	if timeouts := settings.Timeouts; timeouts != nil {
		c.duration(field+".timeouts.request", timeouts.Request, 0, maxRouteTimeout)
		c.duration(field+".timeouts.backendRequest", timeouts.BackendRequest, 0, maxRouteTimeout)
		c.duration(field+".timeouts.streamIdle", timeouts.StreamIdle, 0, 24*time.Hour)
		c.duration(field+".timeouts.connect", timeouts.Connect, 10*time.Millisecond, time.Minute)
	}
	c.trafficRetry(field+".retry", settings.Retry)
	if budget := settings.RetryBudget; budget != nil {
		c.between(field+".retryBudget.percent", budget.Percent, 1, 100)
		c.between(field+".retryBudget.minConcurrent", budget.MinConcurrent, 0, 10_000)
	}
	if limits := settings.ConnectionLimits; limits != nil {
		c.between(field+".connectionLimits.maxConnections", limits.MaxConnections, 1, 1_000_000)
		c.between(field+".connectionLimits.maxPendingRequests", limits.MaxPendingRequests, 1, 1_000_000)
		c.between(field+".connectionLimits.maxRequests", limits.MaxRequests, 1, 1_000_000)
		c.between(field+".connectionLimits.maxRetries", limits.MaxRetries, 1, 1_000_000)
		c.between(field+".connectionLimits.maxRequestsPerConnection", limits.MaxRequestsPerConnection, 1, 1_000_000)
	}
	if outliers := settings.OutlierDetection; outliers != nil {
		part := field + ".outlierDetection"
		c.between(part+".consecutiveErrors", outliers.ConsecutiveErrors, 1, 1000)
		c.between(part+".consecutiveGatewayErrors", outliers.ConsecutiveGatewayErrors, 1, 1000)
		c.duration(part+".interval", outliers.Interval, 100*time.Millisecond, 10*time.Minute)
		c.duration(part+".baseEjectionTime", outliers.BaseEjectionTime, time.Second, time.Hour)
		c.between(part+".maxEjectionPercent", outliers.MaxEjectionPercent, 1, 100)
	}
	c.healthCheck(field+".healthCheck", settings.HealthCheck)
	c.loadBalancing(field+".loadBalancing", settings.LoadBalancing)
	c.fallback(field+".fallback", settings.Fallback)
	c.fault(field+".fault", settings.Fault)
	c.overload(field, settings)
	c.compression(field+".compression", settings.Compression)
	if body := settings.RequestBody; body != nil && (body.MaxBytes < 1 || body.MaxBytes > 1<<30) {
		c.fail(CodeInvalid, field+".requestBody.maxBytes", "%d is outside of 1 to %d", body.MaxBytes, 1<<30)
	}
}

// between checks a number that is set.
func (c *checker) between(field string, value *int32, least, most int32) {
	if value != nil && (*value < least || *value > most) {
		c.fail(CodeInvalid, field, "%d is outside of %d to %d", *value, least, most)
	}
}

func (c *checker) statuses(field string, statuses []int32, least, most int32) {
	c.count(field, len(statuses), 0, 16)
	for i := range statuses {
		c.between(fmt.Sprintf("%s[%d]", field, i), &statuses[i], least, most)
	}
}

func (c *checker) trafficRetry(field string, retry *v1alpha1.TrafficRetry) {
	if retry == nil {
		return
	}
	c.between(field+".attempts", retry.Attempts, 0, 10)
	c.count(field+".on", len(retry.On), 0, 16)
	for i, on := range retry.On {
		oneOf(c, fmt.Sprintf("%s.on[%d]", field, i), on, false, v1alpha1.RetryConnectFailure, v1alpha1.RetryRefusedStream,
			v1alpha1.RetryResetBeforeRequest, v1alpha1.RetryReset, v1alpha1.RetryGatewayError, v1alpha1.RetryServerError,
			v1alpha1.RetryGRPCUnavailable, v1alpha1.RetryGRPCCancelled, v1alpha1.RetryGRPCDeadlineExceeded,
			v1alpha1.RetryGRPCInternal, v1alpha1.RetryGRPCResourceExhausted)
	}
	c.statuses(field+".codes", retry.Codes, 400, 599)
	c.duration(field+".backoff", retry.Backoff, time.Millisecond, time.Minute)
}

func (c *checker) healthCheck(field string, check *v1alpha1.HealthCheck) {
	if check == nil {
		return
	}
	c.duration(field+".interval", check.Interval, 100*time.Millisecond, 10*time.Minute)
	c.duration(field+".timeout", check.Timeout, 10*time.Millisecond, time.Minute)
	c.between(field+".unhealthyThreshold", check.UnhealthyThreshold, 1, 100)
	c.between(field+".healthyThreshold", check.HealthyThreshold, 1, 100)
	c.exactlyOne(field, []string{"http", "grpc", "tcp"}, check.HTTP != nil, check.GRPC != nil, check.TCP != nil)
	if http := check.HTTP; http != nil {
		c.text(field+".http.path", http.Path, true, 1024)
		if !strings.HasPrefix(http.Path, "/") && http.Path != "" {
			c.fail(CodeInvalid, field+".http.path", "%q does not start with /", http.Path)
		}
		if http.Host != "" {
			c.hostname(field+".http.host", http.Host, false)
		}
		c.statuses(field+".http.statuses", http.Statuses, 200, 599)
	}
	if check.GRPC != nil {
		c.text(field+".grpc.service", check.GRPC.Service, false, 256)
	}
}

// exactlyOne checks that one of several fields is set.
func (c *checker) exactlyOne(field string, names []string, set ...bool) {
	count := 0
	for _, is := range set {
		if is {
			count++
		}
	}
	if count != 1 {
		c.fail(CodeInvalid, field, "set exactly one of %s", strings.Join(names, ", "))
	}
}

func (c *checker) loadBalancing(field string, balancing *v1alpha1.LoadBalancing) {
	if balancing == nil {
		return
	}
	oneOf(c, field+".algorithm", balancing.Algorithm, true, v1alpha1.BalanceLeastRequest, v1alpha1.BalanceRoundRobin,
		v1alpha1.BalanceRandom, v1alpha1.BalanceMaglev, v1alpha1.BalanceRingHash)
	oneOf(c, field+".locality", balancing.Locality, true, v1alpha1.LocalityNone, v1alpha1.LocalityPreferZone)
	hashes := balancing.Algorithm == v1alpha1.BalanceMaglev || balancing.Algorithm == v1alpha1.BalanceRingHash
	switch {
	case hashes:
		c.count(field+".hashBy", len(balancing.HashBy), 1, 4)
	case len(balancing.HashBy) > 0:
		c.fail(CodeInvalid, field+".hashBy", "needs algorithm Maglev or RingHash")
	}
	if hashes && balancing.Locality == v1alpha1.LocalityPreferZone {
		c.fail(CodeInvalid, field+".locality", "PreferZone does not go with %s", balancing.Algorithm)
	}
	for i, by := range balancing.HashBy {
		part := fmt.Sprintf("%s.hashBy[%d]", field, i)
		oneOf(c, part+".type", by.Type, false, v1alpha1.HashByHeader, v1alpha1.HashByCookie, v1alpha1.HashByClientIP)
		switch {
		case by.Type == v1alpha1.HashByClientIP && by.Name != "":
			c.fail(CodeInvalid, part+".name", "needs type Header or Cookie")
		case by.Type == v1alpha1.HashByHeader:
			c.header(part+".name", by.Name)
		case by.Type == v1alpha1.HashByCookie && !headerPattern.MatchString(by.Name):
			c.fail(CodeInvalid, part+".name", "%q is not the name of a cookie", by.Name)
		}
		if by.TTL != nil && by.Type != v1alpha1.HashByCookie {
			c.fail(CodeInvalid, part+".ttl", "needs type Cookie")
		}
		c.duration(part+".ttl", by.TTL, time.Second, 720*time.Hour)
	}
	if balancing.SlowStart != nil && (hashes || balancing.Algorithm == v1alpha1.BalanceRandom) {
		c.fail(CodeInvalid, field+".slowStart", "needs algorithm RoundRobin or LeastRequest")
	}
	c.duration(field+".slowStart", balancing.SlowStart, time.Second, time.Hour)
}

func (c *checker) fallback(field string, fallback *v1alpha1.Fallback) {
	if fallback == nil {
		return
	}
	if fallback.BackendRef == nil && fallback.Response == nil {
		c.fail(CodeRequired, field, "needs a backendRef or a response")
	}
	if ref := fallback.BackendRef; ref != nil {
		c.backendRef(field+".backendRef", &gatewayv1.BackendRef{BackendObjectReference: *ref})
	}
	if response := fallback.Response; response != nil {
		part := field + ".response"
		c.statuses(part+".statuses", response.Statuses, 400, 599)
		c.between(part+".status", response.Status, 200, 599)
		c.text(part+".contentType", response.ContentType, false, 128)
		if len(response.Body) > 4096 {
			c.fail(CodeTooMany, part+".body", "has %d bytes; the most is 4096", len(response.Body))
		}
	}
}

func (c *checker) fault(field string, fault *v1alpha1.Fault) {
	if fault == nil {
		return
	}
	if fault.Delay == nil && fault.Abort == nil {
		c.fail(CodeRequired, field, "needs a delay or an abort")
	}
	if delay := fault.Delay; delay != nil {
		if delay.Duration == "" {
			c.required(field + ".delay.duration")
		} else {
			c.duration(field+".delay.duration", &delay.Duration, time.Millisecond, time.Minute)
		}
		c.between(field+".delay.percent", delay.Percent, 1, 100)
	}
	if abort := fault.Abort; abort != nil {
		c.exactlyOne(field+".abort", []string{"status", "grpcStatus"}, abort.Status != nil, abort.GRPCStatus != nil)
		c.between(field+".abort.status", abort.Status, 400, 599)
		c.between(field+".abort.grpcStatus", abort.GRPCStatus, 1, 16)
		c.between(field+".abort.percent", abort.Percent, 1, 100)
	}
}

func (c *checker) overload(field string, settings *v1alpha1.TrafficSettings) {
	if adaptive := settings.AdaptiveConcurrency; adaptive != nil {
		part := field + ".adaptiveConcurrency"
		c.between(part+".percentile", adaptive.Percentile, 1, 99)
		c.between(part+".maxConcurrency", adaptive.MaxConcurrency, 1, 100_000)
		c.duration(part+".updateInterval", adaptive.UpdateInterval, 10*time.Millisecond, time.Minute)
		c.duration(part+".minRTTInterval", adaptive.MinRTTInterval, time.Second, time.Hour)
	}
	if admission := settings.AdmissionControl; admission != nil {
		part := field + ".admissionControl"
		c.between(part+".successPercent", admission.SuccessPercent, 1, 100)
		c.duration(part+".window", admission.Window, time.Second, 10*time.Minute)
		c.between(part+".minRequestsPerSecond", admission.MinRequestsPerSecond, 0, 1_000_000)
		c.between(part+".maxRejectionPercent", admission.MaxRejectionPercent, 1, 99)
	}
}

func (c *checker) compression(field string, compression *v1alpha1.Compression) {
	if compression == nil {
		return
	}
	c.count(field+".algorithms", len(compression.Algorithms), 0, 3)
	seen := map[v1alpha1.CompressionAlgorithm]bool{}
	for i, algorithm := range compression.Algorithms {
		part := fmt.Sprintf("%s.algorithms[%d]", field, i)
		oneOf(c, part, algorithm, false, v1alpha1.CompressGzip, v1alpha1.CompressBrotli, v1alpha1.CompressZstd)
		if seen[algorithm] {
			c.fail(CodeDuplicateName, part, "%q is there twice", algorithm)
		}
		seen[algorithm] = true
	}
	c.between(field+".minBytes", compression.MinBytes, 30, 1<<20)
	c.count(field+".contentTypes", len(compression.ContentTypes), 0, 32)
	for i, name := range compression.ContentTypes {
		c.text(fmt.Sprintf("%s.contentTypes[%d]", field, i), name, true, 128)
	}
}
