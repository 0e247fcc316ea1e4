package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"weir.dev/extauthz"
)

// opened is a session as it was found, with what is made of it. Shared between
// requests: never changed.
type opened struct {
	session *session
	proof   *extauthz.Proof
	// gone are the names under which a logout leaves its mark.
	gone []string
}

// held is the session of a request.
type held struct {
	*opened
	// key is its place in the shared store; empty when it is in cookies.
	key string
}

func hashed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// load finds the request's session. Its error is an *endedError, or else says
// that the store cannot be asked.
func (l *Login) load(ctx context.Context, call *extauthz.Call) (*held, error) {
	raw, err := l.jar.read(call.Request)
	if err != nil {
		return nil, &endedError{extauthz.ReasonSessionInvalid, err, true}
	}
	found := &held{}
	purpose := l.namespace + "session"
	if l.redis {
		found.key = l.sessionKey(raw)
		purpose = found.key
		if raw, err = l.shared.Get(ctx, found.key); err != nil {
			return nil, err
		}
		if raw == nil {
			return nil, &endedError{extauthz.ReasonSessionInvalid, errors.New("there is no such session"), true}
		}
	}
	if found.opened, err = l.open(raw, purpose); err != nil {
		return nil, &endedError{extauthz.ReasonSessionInvalid, err, true}
	}
	if found.session.ended(call.Now) {
		return nil, &endedError{extauthz.ReasonSessionExpired, errors.New("the session's lifetime is over"), true}
	}
	if l.revoked(ctx, found.opened) {
		return nil, &endedError{extauthz.ReasonSessionExpired, errors.New("the session was ended by a logout"), true}
	}
	return found, nil
}

func (l *Login) sessionKey(id []byte) string { return l.namespace + "session:" + hashed(string(id)) }

// open unseals and reads a session, once for all requests that bring it.
func (l *Login) open(sealed []byte, purpose string) (*opened, error) {
	key := sha256.Sum256(sealed)
	if known := l.proofs.find(key); known != nil {
		return known, nil
	}
	raw, err := l.ring.open(sealed, purpose)
	if err != nil {
		return nil, err
	}
	s, err := decodeSession(raw)
	if err != nil {
		return nil, err
	}
	made, err := l.made(s)
	if err != nil {
		return nil, err
	}
	l.proofs.keep(key, made, len(raw))
	return made, nil
}

func (l *Login) made(s *session) (*opened, error) {
	proof, err := l.proof(s)
	if err != nil {
		return nil, err
	}
	made := &opened{session: s, proof: proof}
	if !l.redis {
		made.gone = []string{l.goneID(s.ID), l.goneSubject(s.Subject)}
		if s.SID != "" {
			made.gone = append(made.gone, l.goneSID(s.SID))
		}
	}
	return made, nil
}

// Sessions in cookies cannot be deleted, so logouts leave marks in the memory of
// this process, for as long as the sessions could last.
func (l *Login) goneID(id string) string       { return l.namespace + "gone:id:" + hashed(id) }
func (l *Login) goneSID(sid string) string     { return l.namespace + "gone:sid:" + hashed(sid) }
func (l *Login) goneSubject(who string) string { return l.namespace + "gone:sub:" + hashed(who) }
func (l *Login) listSID(sid string) string     { return l.namespace + "by:sid:" + hashed(sid) }
func (l *Login) listSubject(who string) string { return l.namespace + "by:sub:" + hashed(who) }
func (l *Login) mark(ctx context.Context, name string, at time.Time) error {
	return l.local.Put(ctx, name, []byte(strconv.FormatInt(at.Unix(), 10)), l.lifetime)
}

// revoked reports whether a mark is as young as the session.
func (l *Login) revoked(ctx context.Context, found *opened) bool {
	for _, name := range found.gone {
		value, err := l.local.Get(ctx, name)
		if err != nil {
			return true
		}
		if value == nil {
			continue
		}
		if at, err := strconv.ParseInt(string(value), 10, 64); err != nil || found.session.Begun <= at {
			return true
		}
	}
	return false
}

// keep stores a new session and returns the cookies that stand for it.
func (l *Login) keep(ctx context.Context, call *extauthz.Call, s *session) ([]extauthz.Header, error) {
	if !l.redis {
		return l.written(call, s)
	}
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	key := l.sessionKey(id)
	if err := l.shared.Put(ctx, key, l.ring.seal(s.encode(), key), l.left(s, call.Now)); err != nil {
		return nil, err
	}
	lists := []string{l.listSubject(s.Subject)}
	if s.SID != "" {
		lists = append(lists, l.listSID(s.SID))
	}
	for _, list := range lists {
		dropped, err := l.shared.Append(ctx, list, key, maxSessions, l.lifetime)
		if err == nil && len(dropped) > 0 {
			err = l.shared.Delete(ctx, dropped...)
		}
		if err != nil {
			return nil, err
		}
	}
	return l.jar.write(call.Request, id, int(l.left(s, call.Now).Seconds()))
}

// written is a session in cookies.
func (l *Login) written(call *extauthz.Call, s *session) ([]extauthz.Header, error) {
	return l.jar.write(call.Request, l.ring.seal(s.encode(), l.namespace+"session"), int(l.left(s, call.Now).Seconds()))
}

func (l *Login) left(s *session, now time.Time) time.Duration {
	return max(time.Second, time.Unix(s.Ends, 0).Sub(now))
}

// forgetOld ends the session that a new login replaces.
func (l *Login) forgetOld(ctx context.Context, call *extauthz.Call) {
	if old, err := l.load(ctx, call); err == nil {
		_ = l.end(ctx, old, call.Now) // it ends by itself otherwise
	}
}

// end makes a session worthless.
func (l *Login) end(ctx context.Context, old *held, now time.Time) error {
	if l.redis {
		return l.shared.Delete(ctx, old.key)
	}
	return l.mark(ctx, l.goneID(old.session.ID), now)
}

// outcome is what became of a refresh, for all who waited for it.
type outcome struct {
	Session *session `json:"s,omitempty"`
	// Refused is why the provider ended the session.
	Refused string `json:"x,omitempty"`
}

// waitAhead is how long a request waits for a refresh that it could do without.
const waitAhead = 300 * time.Millisecond

// restFor is how long a provider that did not answer is left alone.
const restFor = time.Second

// renewed asks the provider again, once for all requests of the session.
func (l *Login) renewed(ctx context.Context, call *extauthz.Call, old *held) (*extauthz.Proof, error) {
	overdue := old.session.overdue(call.Now)
	if old.session.Refresh == "" {
		if !overdue {
			return old.proof, nil
		}
		return nil, l.refuse(ctx, call, &endedError{extauthz.ReasonSessionExpired, errors.New("what the provider said is out of date, and it gave no refresh token"), false})
	}
	waiting := ctx
	if !overdue {
		bounded, cancel := context.WithTimeout(ctx, waitAhead)
		defer cancel()
		waiting = bounded
	}
	key := l.namespace + "refresh:" + hashed(old.session.Refresh)
	if sealed, rests := l.rests(ctx, key); rests {
		switch {
		case sealed != nil:
			return l.outcome(ctx, call, key, sealed)
		case !overdue:
			return old.proof, nil
		}
		return nil, l.refuse(ctx, call, errors.New("the provider could not be asked a moment ago"))
	}
	sealed, err := l.once.do(waiting, key, graceFor, func(ctx context.Context) ([]byte, error) {
		result, err := l.ask(ctx, old)
		l.events.LoginRefresh(err)
		if err != nil {
			return nil, err
		}
		raw, err := json.Marshal(result)
		if err != nil {
			return nil, err
		}
		return l.ring.seal(raw, key), nil
	})
	if err != nil {
		_ = l.local.Put(ctx, key+":rest", []byte{1}, restFor)
		if !overdue { // what it said still holds
			return old.proof, nil
		}
		return nil, l.refuse(ctx, call, err)
	}
	return l.outcome(ctx, call, key, sealed)
}

// rests reports whether the provider did not answer a moment ago, so that it is
// not asked again for every request, and what it has answered since.
func (l *Login) rests(ctx context.Context, key string) (sealed []byte, rests bool) {
	if mark, err := l.local.Get(ctx, key+":rest"); err != nil || mark == nil {
		return nil, false
	}
	sealed, err := l.shared.Get(ctx, key)
	if err != nil {
		return nil, true
	}
	return sealed, true
}

func (l *Login) outcome(ctx context.Context, call *extauthz.Call, key string, sealed []byte) (*extauthz.Proof, error) {
	raw, err := l.ring.open(sealed, key)
	result := &outcome{}
	if err == nil {
		err = json.Unmarshal(raw, result)
	}
	switch {
	case err != nil:
		return nil, l.refuse(ctx, call, &endedError{extauthz.ReasonSessionExpired, err, false})
	case result.Session == nil:
		return nil, l.refuse(ctx, call, &endedError{extauthz.ReasonSessionExpired, errors.New(result.Refused), false})
	}
	made, err := l.made(result.Session)
	if err != nil {
		return nil, l.refuse(ctx, call, &endedError{extauthz.ReasonSessionInvalid, err, false})
	}
	if l.redis || l.revoked(ctx, made) {
		if !l.redis {
			return nil, l.refuse(ctx, call, &endedError{extauthz.ReasonSessionExpired, errors.New("the session was ended by a logout"), false})
		}
		return made.proof, nil
	}
	set, err := l.written(call, result.Session)
	if err != nil {
		return nil, l.refuse(ctx, call, &endedError{extauthz.ReasonSessionInvalid, err, false})
	}
	proof := *made.proof
	proof.ResponseHeaders = set
	return &proof, nil
}

// ask has the provider renew a session. An error means that it could not be
// asked.
func (l *Login) ask(ctx context.Context, old *held) (*outcome, error) {
	if l.redis { // it may have been renewed or ended since the request looked
		now, err := l.reload(ctx, old.key)
		switch {
		case err != nil:
			return nil, err
		case now == nil:
			return &outcome{Refused: "the session was ended by a logout"}, nil
		case now.Refresh != old.session.Refresh:
			return &outcome{Session: now}, nil
		}
	}
	described, err := l.provider.describe(ctx)
	if err != nil {
		return nil, err
	}
	tokens, err := l.provider.renew(ctx, described, old.session.Refresh)
	if isUnavailable(err) {
		return nil, err
	}
	if err != nil {
		return &outcome{Refused: "the provider did not renew the session: " + err.Error()}, nil
	}
	made := *old.session
	now := l.provider.clock()
	verified, text, err := l.idToken(ctx, described, tokens, now)
	if verified != nil && err == nil {
		if verified.Subject != made.Subject {
			err = errors.New("the new ID token is another person's")
		}
		made.IDToken = text
	}
	if err == nil {
		err = l.learn(ctx, described, &made, tokens, now)
	}
	if isUnavailable(err) {
		return nil, err
	}
	if err != nil {
		return &outcome{Refused: err.Error()}, nil
	}
	if !l.redis {
		return &outcome{Session: &made}, nil
	}
	kept, err := l.shared.Replace(ctx, old.key, l.ring.seal(made.encode(), old.key), l.left(&made, now))
	if err != nil {
		return nil, err
	}
	if !kept {
		return &outcome{Refused: "the session was ended by a logout"}, nil
	}
	return &outcome{Session: &made}, nil
}

func (l *Login) reload(ctx context.Context, key string) (*session, error) {
	sealed, err := l.shared.Get(ctx, key)
	if err != nil || sealed == nil {
		return nil, err
	}
	raw, err := l.ring.open(sealed, key)
	if err != nil {
		return nil, nil // of a key that is gone: no session
	}
	return decodeSession(raw)
}
