package record

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"

	decisionv1 "weir.dev/api/gen/weir/decision/v1"
)

// AppendJSON appends a record as protojson reads it, in one line and always in
// the same order, at a tenth of protojson's cost.
func AppendJSON(to []byte, d *decisionv1.Decision) []byte {
	w := writer{out: append(to, '{')}
	w.text("id", d.GetId())
	w.name("time")
	w.out = append(w.out, '"')
	w.out = d.GetTime().AsTime().UTC().AppendFormat(w.out, "2006-01-02T15:04:05.000000000Z")
	w.out = append(w.out, '"')
	w.text("requestId", d.GetRequestId())
	w.text("server", d.GetServer())
	w.flag("allowed", d.GetAllowed())
	w.text("reason", d.GetReason())
	w.text("route", d.GetRoute())
	w.text("policy", d.GetPolicy())
	w.text("digest", d.GetDigest())
	w.text("authenticator", d.GetAuthenticator())
	w.text("rule", d.GetRule())
	w.request(d.GetRequest())
	w.caller(d.GetCaller())
	w.steps("methods", d.GetMethods())
	w.steps("rules", d.GetRules())
	if took := d.GetTook(); took != nil {
		w.name("took")
		w.out = append(w.out, '"')
		w.out = strconv.AppendFloat(w.out, took.AsDuration().Seconds(), 'f', 9, 64)
		w.out = append(w.out, 's', '"')
	}
	w.text("cause", d.GetCause())
	w.verdicts(d.GetCandidates())
	w.texts("missing", d.GetMissing())
	return append(w.out, '}')
}

// writer writes the fields of JSON objects; fields that are empty are left out.
type writer struct{ out []byte }

func (w *writer) comma() {
	if last := w.out[len(w.out)-1]; last != '{' && last != '[' {
		w.out = append(w.out, ',')
	}
}

func (w *writer) name(name string) {
	w.comma()
	w.out = append(w.out, '"')
	w.out = append(w.out, name...)
	w.out = append(w.out, '"', ':')
}

func (w *writer) flag(name string, value bool) {
	if value {
		w.name(name)
		w.out = append(w.out, "true"...)
	}
}

func (w *writer) text(name, value string) {
	if value != "" {
		w.name(name)
		w.out = appendString(w.out, value)
	}
}

func (w *writer) texts(name string, values []string) {
	if len(values) == 0 {
		return
	}
	w.name(name)
	w.out = append(w.out, '[')
	for _, value := range values {
		w.comma()
		w.out = appendString(w.out, value)
	}
	w.out = append(w.out, ']')
}

func (w *writer) request(r *decisionv1.Request) {
	if r == nil {
		return
	}
	w.name("request")
	w.out = append(w.out, '{')
	w.text("method", r.GetMethod())
	w.text("host", r.GetHost())
	w.text("path", r.GetPath())
	w.text("query", r.GetQuery())
	w.text("protocol", r.GetProtocol())
	w.text("source", r.GetSource())
	if len(r.GetHeaders()) > 0 {
		w.name("headers")
		w.out = append(w.out, '{')
		for _, name := range slices.Sorted(maps.Keys(r.GetHeaders())) {
			w.comma()
			w.out = appendString(w.out, name)
			w.out = append(w.out, ':')
			w.out = appendString(w.out, r.GetHeaders()[name])
		}
		w.out = append(w.out, '}')
	}
	w.out = append(w.out, '}')
}

func (w *writer) caller(c *decisionv1.Caller) {
	if c == nil {
		return
	}
	w.name("caller")
	w.out = append(w.out, '{')
	w.text("consumer", c.GetConsumer())
	w.text("subject", c.GetSubject())
	w.text("tenant", c.GetTenant())
	w.text("tier", c.GetTier())
	w.texts("scopes", c.GetScopes())
	w.text("issuer", c.GetIssuer())
	if c.GetClaims() != nil {
		if raw, err := json.Marshal(c.GetClaims().AsMap()); err == nil {
			w.name("claims")
			w.out = append(w.out, raw...)
		}
	}
	w.out = append(w.out, '}')
}

func (w *writer) steps(name string, steps []*decisionv1.Step) {
	if len(steps) == 0 {
		return
	}
	w.name(name)
	w.out = append(w.out, '[')
	for _, s := range steps {
		w.comma()
		w.out = append(w.out, '{')
		w.text("name", s.GetName())
		w.text("outcome", s.GetOutcome())
		w.text("effect", s.GetEffect())
		w.text("kind", s.GetKind())
		w.out = append(w.out, '}')
	}
	w.out = append(w.out, ']')
}

func (w *writer) verdicts(verdicts []*decisionv1.Verdict) {
	if len(verdicts) == 0 {
		return
	}
	w.name("candidates")
	w.out = append(w.out, '[')
	for _, v := range verdicts {
		w.comma()
		w.out = append(w.out, '{')
		w.text("policy", v.GetPolicy())
		w.text("digest", v.GetDigest())
		w.text("outcome", v.GetOutcome())
		w.text("reason", v.GetReason())
		w.text("rule", v.GetRule())
		w.out = append(w.out, '}')
	}
	w.out = append(w.out, ']')
}

const hexDigits = "0123456789abcdef"

// appendString writes a JSON string (RFC 8259 section 7).
func appendString(to []byte, value string) []byte {
	to = append(to, '"')
	from := 0
	for i := 0; i < len(value); {
		c := value[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(value[i:])
			if r != utf8.RuneError || size != 1 {
				i += size
				continue
			}
			to = append(append(to, value[from:i]...), `\ufffd`...)
		} else if c == '"' || c == '\\' {
			to = append(append(to, value[from:i]...), '\\', c)
		} else {
			to = append(append(to, value[from:i]...), '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		}
		i++
		from = i
	}
	return append(append(to, value[from:]...), '"')
}

// Parse reads a record; fields that it does not know are passed over, so that
// newer logs can be read.
func Parse(raw []byte) (*decisionv1.Decision, error) {
	record := &decisionv1.Decision{}
	err := protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, record)
	return record, err
}
