// Package monitoring pins the modules that have the definitions of the Prometheus
// operator and of KEDA, which the charts' ServiceMonitors and ScaledObjects are
// checked against. Nothing of them is built.
package monitoring

import (
	_ "github.com/kedacore/keda/v2/version"
	_ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"
)
