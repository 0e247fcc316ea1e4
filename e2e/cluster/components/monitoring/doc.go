// Package monitoring pins the module that has the Prometheus operator's
// definitions, which the charts' ServiceMonitors are checked against. Nothing of it
// is built.
package monitoring

import _ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"
