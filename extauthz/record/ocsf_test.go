package record_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/record"
)

// attributes are those of OCSF's classes and objects, as its repository has them
// at version 1.2.0.
type attributes map[string]struct{ Required, Known []string }

// objects says which of OCSF's objects an attribute is.
func objects() map[string]string {
	return map[string]string{
		"metadata": "metadata", "product": "product", "actor": "actor", "user": "user", "org": "organization", "idp": "idp",
		"authorizations": "authorization", "policy": "policy", "api": "api", "request": "request", "response": "response",
		"service": "service", "src_endpoint": "network_endpoint", "http_request": "http_request", "url": "url", "app": "product",
	}
}

func (a attributes) check(t *testing.T, kind string, value map[string]any) {
	t.Helper()
	for _, name := range a[kind].Required {
		require.Contains(t, value, name, kind)
	}
	for name, inner := range value {
		require.Contains(t, a[kind].Known, name, kind)
		object := objects()[name]
		if object == "" {
			continue
		}
		switch inner := inner.(type) {
		case map[string]any:
			a.check(t, object, inner)
		case []any:
			for _, element := range inner {
				a.check(t, object, element.(map[string]any)) //nolint:forcetypeassert // a test
			}
		}
	}
}

func TestOCSFKeepsToTheSchema(t *testing.T) {
	raw, err := os.ReadFile("testdata/ocsf-1.2.0.json")
	require.NoError(t, err)
	var known attributes
	require.NoError(t, json.Unmarshal(raw, &known))
	route := audited(authtest.WithRules(authtest.Route("r", authtest.APIKey(), authtest.Anonymous()), authtest.Deny("d", `request.method == "PATCH"`)), rulesv1.Audit_AUDIT_REQUIRED)
	w := start(t, nil, route)
	w.decide(t, ask("r", "/v1?a=b", "x-api-key", authtest.GoodKey))
	w.decide(t, ask("r", "/v1"))
	w.decide(t, ask("r", "//v1"))
	patch := ask("r", "/v1")
	patch.Method, patch.ID = "PATCH", ""
	w.decide(t, patch)
	for i, record := range append(w.audit.records,
		[]byte(`{"event":"AUDIT_OPENED","time":"2026-03-01T12:00:00Z"}`), []byte(`{"event":"AUDIT_RECOVERED","time":"2026-03-01T12:00:00Z","droppedBytes":3}`)) {
		event := ocsf(t, int64(i), record)
		class := map[float64]string{6003: "api_activity", 6002: "application_lifecycle"}[event["class_uid"].(float64)]
		known.check(t, class, event)
		require.Equal(t, event["class_uid"].(float64)*100+event["activity_id"].(float64), event["type_uid"])
		require.EqualValues(t, 1772366400000, event["time"])
	}
	allowed, denied := ocsf(t, 0, w.audit.records[0]), ocsf(t, 3, w.audit.records[3])
	require.EqualValues(t, 1, allowed["status_id"])
	require.EqualValues(t, 2, denied["status_id"])
	require.Equal(t, "PERMISSION_DENIED", denied["status_code"])
	require.Equal(t, "default/shop", allowed["actor"].(map[string]any)["user"].(map[string]any)["uid"])
	_, err = record.OCSF(0, []byte("x"))
	require.Error(t, err)
}

func ocsf(t *testing.T, seq int64, raw []byte) map[string]any {
	t.Helper()
	event, err := record.OCSF(seq, raw)
	require.NoError(t, err)
	var parsed map[string]any
	require.NoError(t, json.Unmarshal(event, &parsed))
	return parsed
}
