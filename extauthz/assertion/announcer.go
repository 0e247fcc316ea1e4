package assertion

import (
	"context"
	"fmt"
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

// Exchanger gets a token for the service in the place of the caller's.
type Exchanger interface {
	// Exchange makes what is asked for one policy; its errors begin with the field
	// at fault.
	Exchange(source *rulesv1.TokenExchange) (Exchange, error)
}

// Exchange is safe for concurrent use.
type Exchange interface {
	// Token returns the value of Authorization for the service, within ctx. An
	// error refuses the request.
	Token(ctx context.Context, now time.Time, request *extauthz.Request, decision *extauthz.Decision) (string, error)
}

// Announcers makes announcers. Safe for concurrent use.
type Announcers struct {
	Signer    *Signer
	Exchanger Exchanger
}

type announcer struct {
	signer   *Signer
	form     *form
	exchange Exchange
}

const headerAuthorization = "authorization"

// Announcer is extauthz.Extensions.Upstream.
func (a *Announcers) Announcer(source *rulesv1.Upstream) (extauthz.Announcer, error) {
	made := &announcer{signer: a.Signer}
	if assertion := source.GetAssertion(); assertion != nil {
		form, err := newForm(assertion)
		if err != nil {
			return nil, fmt.Errorf("assertion.%w", err)
		}
		if err := extauthz.OwnHeader(form.header); err != nil {
			return nil, fmt.Errorf("assertion.header: %q %w", form.header, err)
		}
		made.form = form
	}
	if source.GetExchange() != nil {
		exchange, err := a.Exchanger.Exchange(source.GetExchange())
		if err != nil {
			return nil, fmt.Errorf("exchange.%w", err)
		}
		made.exchange = exchange
	}
	return made, nil
}

// Names implements extauthz.Announcer.
func (a *announcer) Names() []string {
	var names []string
	if a.form != nil {
		names = append(names, a.form.header)
	}
	if a.exchange != nil {
		names = append(names, headerAuthorization)
	}
	return names
}

// Headers implements extauthz.Announcer.
func (a *announcer) Headers(ctx context.Context, now time.Time, request *extauthz.Request, decision *extauthz.Decision) ([]extauthz.Header, error) {
	var headers []extauthz.Header
	if a.form != nil {
		text, err := a.signer.sign(now, a.form, &decision.Identity)
		if err != nil {
			return nil, err
		}
		headers = append(headers, extauthz.Header{Name: a.form.header, Value: text})
	}
	if a.exchange != nil {
		value, err := a.exchange.Token(ctx, now, request, decision)
		if err != nil {
			return nil, err
		}
		headers = append(headers, extauthz.Header{Name: headerAuthorization, Value: value})
	}
	return headers, nil
}
