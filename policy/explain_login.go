package policy

import (
	"fmt"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

func explainLogin(login *rulesv1.LoginAuthenticator) string {
	store := "cookies"
	if login.GetSession().GetStore() == rulesv1.LoginSession_STORE_REDIS {
		store = "Redis"
	}
	text := fmt.Sprintf("a session of a person who logged in at %s as client %s, kept in %s for at most %s; browsers without one are sent there, back to %s",
		login.GetIssuer(), login.GetClientId(), store, shortDuration(login.GetSession().GetLifetime().AsDuration()), login.GetPaths().GetCallback())
	if hosts := login.GetTrustedHosts(); len(hosts) > 0 {
		text += "; trusted hosts: " + strings.Join(hosts, ", ")
	}
	if login.GetForwardAccessToken() {
		text += "; the service gets the access token"
	}
	return text
}
