package login

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/oauth2"

	"weir.dev/extauthz"
)

// session is what is known of a person who logged in. It is stored sealed, and
// never changed once made.
type session struct {
	// ID names the session over its refreshes; random.
	ID string `json:"i"`
	// Subject and SID are of the provider, for its logout tokens.
	Subject string `json:"s"`
	SID     string `json:"d,omitempty"`
	IDToken string `json:"t"`
	// Access is kept where it is forwarded, or needed for the userinfo endpoint.
	Access  string `json:"a,omitempty"`
	Refresh string `json:"r,omitempty"`
	// Scope is what the provider granted.
	Scope    string          `json:"g,omitempty"`
	Userinfo json.RawMessage `json:"u,omitempty"`
	// Begun, Checked, Due and Ends are seconds since 1970: of the login, of the
	// provider's last word, when it is asked again, and when the session is over
	// whatever it says.
	Begun   int64 `json:"b"`
	Checked int64 `json:"c"`
	Due     int64 `json:"n"`
	Ends    int64 `json:"e"`
}

func (s *session) encode() []byte {
	raw, _ := json.Marshal(s) // strings and numbers, and JSON that was read
	return raw
}

func decodeSession(raw []byte) (*session, error) {
	s := &session{}
	if err := json.Unmarshal(raw, s); err != nil || s.ID == "" || s.Subject == "" || s.Ends == 0 {
		return nil, errors.New("what was sealed is no session")
	}
	return s, nil
}

// lead is how long before Due the provider is asked, so that requests need not
// wait for it.
func (s *session) lead() time.Duration {
	return min(30*time.Second, time.Duration(s.Due-s.Checked)*time.Second/5)
}

func (s *session) due(now time.Time) bool { return !now.Before(time.Unix(s.Due, 0).Add(-s.lead())) }

func (s *session) overdue(now time.Time) bool { return !now.Before(time.Unix(s.Due, 0)) }

func (s *session) ended(now time.Time) bool { return !now.Before(time.Unix(s.Ends, 0)) }

// update takes over what the provider said at now.
func (s *session) update(l *Login, tokens *oauth2.Token, now time.Time) {
	s.Checked = now.Unix()
	if tokens.RefreshToken != "" {
		s.Refresh = tokens.RefreshToken
	}
	if l.forward {
		s.Access = tokens.AccessToken
	}
	if scope, ok := tokens.Extra("scope").(string); ok {
		s.Scope = scope
	}
	fresh := l.refresh
	if lives := time.Duration(tokens.ExpiresIn) * time.Second; lives > 0 && (fresh == 0 || lives < fresh) {
		fresh = lives
	}
	if fresh == 0 {
		fresh = defaultRefresh
	}
	s.Due = min(now.Add(fresh).Unix(), s.Ends)
}

// proof is who the session stands for.
func (l *Login) proof(s *session) (*extauthz.Proof, error) {
	claims, err := payload(s.IDToken)
	if err != nil {
		return nil, err
	}
	if len(s.Userinfo) > 0 {
		var more map[string]any
		if err := json.Unmarshal(s.Userinfo, &more); err != nil {
			return nil, fmt.Errorf("userinfo: %w", err)
		}
		for name, value := range more {
			if _, known := claims[name]; !known { // the signed word counts
				claims[name] = value
			}
		}
	}
	if _, known := claims["scope"]; !known && s.Scope != "" {
		claims["scope"] = s.Scope
	}
	proof, err := l.claims.Proof(l.issuer, claims)
	if err != nil {
		return nil, err
	}
	if l.forward && s.Access != "" {
		proof.UpstreamHeaders = []extauthz.Header{{Name: "authorization", Value: "Bearer " + s.Access}}
	}
	return proof, nil
}
