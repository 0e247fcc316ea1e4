package policy

import (
	"fmt"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

func explainJWT(jwt *rulesv1.JwtAuthenticator) string {
	text := fmt.Sprintf("a bearer token of %s for %s, signed with %s", jwt.GetIssuer(),
		strings.Join(jwt.GetAudiences(), " or "), strings.Join(jwt.GetAlgorithms(), ", "))
	switch keys := jwt.GetJwks().(type) {
	case *rulesv1.JwtAuthenticator_RemoteJwks:
		text += ", keys of " + keys.RemoteJwks.GetUri()
	case *rulesv1.JwtAuthenticator_DiscoveredJwks:
		text += ", keys as its discovery document says"
		if uri := keys.DiscoveredJwks.GetUri(); uri != "" {
			text += " (" + uri + ")"
		}
	}
	return text + explainClient(jwt.GetClaims())
}

func explainIntrospection(way *rulesv1.IntrospectionAuthenticator) string {
	text := fmt.Sprintf("an opaque bearer token that %s says is active, of %s", way.GetUri(), way.GetIssuer())
	if audiences := way.GetAudiences(); len(audiences) > 0 {
		text += " for " + strings.Join(audiences, " or ")
	}
	if signed := way.GetSignedResponse(); signed != nil {
		text += ", in an answer that is signed with " + strings.Join(signed.GetAlgorithms(), ", ")
	}
	return text + explainClient(way.GetClaims())
}

func explainKubernetes(way *rulesv1.KubernetesAuthenticator) string {
	return "the token of a Kubernetes ServiceAccount for " + strings.Join(way.GetAudiences(), " or ") + explainClient(way.GetClaims())
}

func explainClient(claims *rulesv1.ClaimMapping) string {
	if client := claims.GetClient(); client != "" {
		return "; the Consumer is found by claim " + client
	}
	return ""
}
