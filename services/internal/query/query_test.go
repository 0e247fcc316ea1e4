package query_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/kit/fault"
	"weir.dev/services/internal/query"
)

func schema() query.Schema {
	return query.Schema{
		"name": {Kind: query.Text, Value: func(s string) (string, error) {
			if id, ok := strings.CutPrefix(s, "things/"); ok {
				return id, nil
			}
			return "", errors.New("must have the form things/*")
		}},
		"create_time": {Kind: query.Time},
		"on":          {Kind: query.Bool, Unordered: true},
		"tags":        {Kind: query.Texts, Unordered: true},
		"data":        {Kind: query.Document},
	}
}

func TestParseFilter(t *testing.T) {
	path := func(op query.Op, value any, segments ...string) query.Compare {
		return query.Compare{Field: "data", Kind: query.Document, Path: segments, Op: op, Value: value}
	}
	for text, want := range map[string]query.Expr{
		"":                    nil,
		"  ":                  nil,
		`name = "things/a"`:   query.Compare{Field: "name", Kind: query.Text, Path: []string{}, Op: query.Equal, Value: "a"},
		`on != true`:          query.Compare{Field: "on", Kind: query.Bool, Path: []string{}, Op: query.NotEqual, Value: true},
		`tags:"x"`:            query.Compare{Field: "tags", Kind: query.Texts, Path: []string{}, Op: query.Has, Value: "x"},
		`data.a = 1`:          path(query.Equal, 1.0, "a"),
		`data.a.b <= -2.5`:    path(query.LessEqual, -2.5, "a", "b"),
		`data.a = "1"`:        path(query.Equal, "1", "a"),
		`data.a = false`:      path(query.Equal, false, "a"),
		`data.a = word`:       path(query.Equal, "word", "a"),
		`data.a:*`:            path(query.Present, nil, "a"),
		`data.a:3`:            path(query.Has, 3.0, "a"),
		`data.a:"true"`:       query.Or{Left: path(query.Has, "true", "a"), Right: path(query.Has, true, "a")},
		`NOT data.a = 1`:      query.Not{Inner: path(query.Equal, 1.0, "a")},
		`-data.a = 1`:         query.Not{Inner: path(query.Equal, 1.0, "a")},
		`data.a = 1 data.b=2`: query.And{Left: path(query.Equal, 1.0, "a"), Right: path(query.Equal, 2.0, "b")},
		`data.a = 1 OR data.b=2 AND data.c=3`: query.And{
			Left:  query.Or{Left: path(query.Equal, 1.0, "a"), Right: path(query.Equal, 2.0, "b")},
			Right: path(query.Equal, 3.0, "c"),
		},
		`create_time > timestamp("2026-01-02T03:04:05Z")`: query.Compare{
			Field: "create_time", Kind: query.Time, Path: []string{}, Op: query.Greater, Value: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		},
	} {
		got, err := query.ParseFilter(text, schema())
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
}

func TestParseFilterRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`nothing = 1`:                    `no field "nothing"`,
		`name`:                           "not a comparison",
		`"text"`:                         "not a comparison",
		`name = "other"`:                 "things/*",
		`name.x = "things/a"`:            "no field",
		`name:"things/a"`:                `use "="`,
		`tags = "x"`:                     `only ":"`,
		`on = 1`:                         "true or false",
		`on > true`:                      `only "=" and "!="`,
		`create_time > "monday"`:         "RFC 3339",
		`data = 1`:                       "name a path",
		`data.a.b.c.d.e.f.g.h.i.j.k = 1`: "at most 10 segments",
		`data."a b" = 1`:                 "can't be used in a path",
		`data."a'b" = 1`:                 "can't be used in a path",
		`data."a\"b" = 1`:                "can't be used in a path",
		`data.0 = 1`:                     "can't be used in a path",
		`data.a = null`:                  "presence",
		`data.a > true`:                  "no order",
		`data.a = (1 OR 2)`:              "can't be compared",
		`data.a = f(1)`:                  "can't be compared",
		`f(data.a)`:                      `no function "f"`,
		`data.a = `:                      "",
		`(((`:                            "",
		"data.a = \"\x00\"":              "U+0000",
		strings.Repeat("x", 3000):        "2048",
		strings.Repeat("(", 60) + "a=1" + strings.Repeat(")", 60):          "parentheses",
		strings.Repeat("NOT (", 40) + "data.a=1" + strings.Repeat(")", 40): "deeper than 20",
		strings.TrimSuffix(strings.Repeat("data.a=1 AND ", 51), " AND "):   "50 comparisons",
		"data.a = 1" + strings.Repeat("0", 400) + ".5":                     "",
	} {
		_, err := query.ParseFilter(text, schema())
		require.Error(t, err, text)
		coded := fault.From(err)
		require.Equal(t, "INVALID_FILTER", coded.Reason, "%q: %v", text, err)
		require.Contains(t, coded.Message, want, text)
	}
}

func TestParseOrder(t *testing.T) {
	keys, err := query.ParseOrder(" data.a.b desc ,name asc,create_time ", schema())
	require.NoError(t, err)
	require.Equal(t, []query.Key{
		{Field: "data", Kind: query.Document, Path: []string{"a", "b"}, Desc: true},
		{Field: "name", Kind: query.Text, Path: []string{}},
		{Field: "create_time", Kind: query.Time, Path: []string{}},
	}, keys)
	for _, bad := range []string{
		"nothing", "name,", ",", "name name", "name desc desc", "name, name", "data", "data.", "data.a'b", "on", "tags", "name.x",
		"name DESC", "name,create_time,data.a,data.b,data.c", strings.Repeat("x", 600), "data.a;drop table x",
	} {
		_, err := query.ParseOrder(bad, schema())
		require.Equal(t, "INVALID_ORDER_BY", fault.From(err).Reason, bad)
	}
}

func TestPager(t *testing.T) {
	pager := query.Pager{Secret: []byte("secret")}
	request := query.Request{Filter: "data.a = 1", OrderBy: "data.b"}
	cursor := &query.Cursor{Values: []any{int64(-3), 0.1, "text ☃ \x01", "", "id"}}
	request.PageToken = pager.Token(cursor, request, "tenant", "c")
	list, err := pager.Parse(request, schema(), "tenant", "c")
	require.NoError(t, err)
	require.Equal(t, cursor, list.After)
	require.Equal(t, query.DefaultPageSize, list.Limit)
	request.PageSize = 1 << 30
	list, err = pager.Parse(request, schema(), "tenant", "c")
	require.NoError(t, err)
	require.Equal(t, query.MaxPageSize, list.Limit)
	require.Empty(t, pager.Token(nil, request))

	refused := func(pager query.Pager, request query.Request, scope ...string) {
		t.Helper()
		_, err := pager.Parse(request, schema(), scope...)
		require.Equal(t, "INVALID_PAGE_TOKEN", fault.From(err).Reason)
	}
	refused(pager, request, "tenant", "d")
	refused(pager, request, "tenantc")
	refused(query.Pager{Secret: []byte("other")}, request, "tenant", "c")
	raw, err := base64.RawURLEncoding.DecodeString(request.PageToken)
	require.NoError(t, err)
	for i := range raw { // every bit of a token counts
		changed := append([]byte{}, raw...)
		changed[i] ^= 1
		refused(pager, query.Request{Filter: request.Filter, OrderBy: request.OrderBy, PageToken: base64.RawURLEncoding.EncodeToString(changed)}, "tenant", "c")
	}
	refused(pager, query.Request{PageToken: strings.Repeat("A", 1<<16)})
}

func FuzzParseFilter(f *testing.F) {
	for _, seed := range []string{
		`name = "things/a" AND NOT (data.a > -1.5 OR data.b:"x")`, `data.a:* create_time > timestamp("2026-01-02T03:04:05Z")`,
		`((((`, `-a:*`, `data."\"" = '\u00e9'`, `a=b=c`, `f(x).y`, "data.a = \"\xff\"", `data.a = 1e999`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := query.ParseFilter(text, schema())
		if err != nil {
			if fault.From(err).Reason != "INVALID_FILTER" {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if terms := count(t, parsed); terms > 2*query.MaxFilterTerms {
			t.Fatalf("%q: %d terms", text, terms)
		}
	})
}

// count walks a filter and checks what the stores rely on.
func count(t *testing.T, e query.Expr) int {
	switch e := e.(type) {
	case nil:
		return 0
	case query.And:
		return count(t, e.Left) + count(t, e.Right)
	case query.Or:
		return count(t, e.Left) + count(t, e.Right)
	case query.Not:
		return count(t, e.Inner)
	case query.Compare:
		if _, known := schema()[e.Field]; !known {
			t.Fatalf("unknown field %q", e.Field)
		}
		if e.Kind == query.Document && query.CheckPath(e.Path) != nil {
			t.Fatalf("unchecked path %q", e.Path)
		}
		switch e.Value.(type) {
		case string, float64, bool, time.Time:
		default:
			if e.Op != query.Present {
				t.Fatalf("value of type %T", e.Value)
			}
		}
		return 1
	}
	t.Fatalf("unknown expression %T", e)
	return 0
}

func FuzzPageToken(f *testing.F) {
	pager := query.Pager{Secret: []byte("secret")}
	good := pager.Token(&query.Cursor{Values: []any{int64(1), "a"}}, query.Request{}, "t")
	f.Add(good)
	f.Add("")
	f.Add("AAAA")
	f.Add(good[:len(good)-1])
	f.Fuzz(func(t *testing.T, token string) {
		list, err := pager.Parse(query.Request{PageToken: token}, schema(), "t")
		if err != nil {
			if fault.From(err).Reason != "INVALID_PAGE_TOKEN" {
				t.Fatal(err)
			}
			return
		}
		// base64 ignores the last bits of the last character.
		if token != "" && fmt.Sprint(list.After.Values) != "[1 a]" {
			t.Fatalf("forged token %q", token)
		}
	})
}

func FuzzParseOrder(f *testing.F) {
	f.Add("name desc, data.a.b")
	f.Add(",,")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := query.ParseOrder(text, schema())
		if err == nil && len(keys) > query.MaxOrderKeys {
			t.Fatalf("%q: %d keys", text, len(keys))
		}
	})
}
