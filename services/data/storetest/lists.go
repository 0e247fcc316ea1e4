package storetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/services/data"
	"weir.dev/services/internal/query"
)

func filters(t *testing.T, store data.Store) {
	c := collection("acme", "notes")
	later := record("acme", "notes", "e", `{"title":"x_y%","n":-5,"deep":{"list":[1,"a",true]}}`)
	later.CreateTime = epoch().Add(time.Hour)
	create(t, store, c,
		record("acme", "notes", "a", `{"title":"apple","n":1,"done":true,"tags":["red","green"]}`),
		record("acme", "notes", "b", `{"title":"Banana","n":2.5,"done":false,"tags":[]}`),
		record("acme", "notes", "c", `{"title":10,"n":"2","done":"true","tags":"red"}`),
		record("acme", "notes", "d", `{"title":null,"nested":{"title":"apple"},"tags":{"k":"red"}}`),
		later)
	for _, test := range []struct{ filter, want string }{
		{``, "a b c d e"},
		{`data.title = "apple"`, "a"},
		{`data.title = apple`, "a"},
		{`data.title != "apple"`, "b e"},
		{`data.title > "Banana"`, "a e"},
		{`data.title = 10`, "c"},
		{`data.title = "10"`, ""},
		{`data.title = "x_y%"`, "e"},
		{`data.title = "' OR 1=1 --"`, ""},
		{`data.n >= 1`, "a b"},
		{`data.n < 0`, "e"},
		{`data.n = -5`, "e"},
		{`data.n = 2.5`, "b"},
		{`data.n = "2"`, "c"},
		{`data.done = true`, "a"},
		{`data.done = "true"`, "c"},
		{`data.done != true`, "b"},
		{`NOT data.done = true`, "b c d e"},
		{`data.title:*`, "a b c e"},
		{`NOT data.title:*`, "d"},
		{`data.nested:*`, "d"},
		{`data.nested.title = "apple"`, "d"},
		{`data.tags:"red"`, "a c"},
		{`data.deep.list:1`, "e"},
		{`data.deep.list:"a"`, "e"},
		{`data.deep.list:true`, "e"},
		{`data.deep.list:false`, ""},
		{`data.deep.list:"1"`, ""},
		{`data.n > 1 OR data.title = "apple"`, "a b"},
		{`data.n > 0 AND data.done = false`, "b"},
		{`data.n > 0 data.done = false`, "b"},
		{`(data.n = 1 OR data.n = 2.5) AND NOT data.done = true`, "b"},
		{`name = "collections/notes/records/b"`, "b"},
		{`name > "collections/notes/records/c"`, "d e"},
		{`create_time > "2026-01-02T03:05:00Z"`, "e"},
		{`create_time <= "2026-01-02T04:05:00+01:00"`, "a b c d"},
		{`create_time <= "2026-01-02T04:04:05+01:00"`, ""},
		{`update_time = "2026-01-02T03:04:05.000678Z"`, "a b c d e"},
	} {
		t.Run(test.filter, func(t *testing.T) {
			filter, err := query.ParseFilter(test.filter, data.RecordFields())
			require.NoError(t, err)
			page, next, err := store.ListRecords(t.Context(), "acme", "notes", query.List{Filter: filter, Limit: 10})
			require.NoError(t, err)
			require.Nil(t, next)
			require.Equal(t, test.want, ids(page))
		})
	}
}

func ids(page []data.Record) string {
	var all []string
	for _, r := range page {
		all = append(all, r.ID)
	}
	return strings.Join(all, " ")
}

// orders checks every order with every page size: the pages together are the
// whole, in order.
func orders(t *testing.T, store data.Store) {
	documents := map[string]string{
		"a": `{"v":"b","w":1}`, "b": `{"v":"B","w":2}`, "c": `{"v":10,"w":1}`, "d": `{"v":9.5,"w":2}`,
		"e": `{"v":true,"w":1}`, "f": `{"v":false,"w":2}`, "g": `{"v":null,"w":1}`, "h": `{"w":2}`,
		"i": `{"v":[1],"w":1}`, "j": `{"v":"é","w":2}`, "k": `{"v":-1,"w":1}`, "l": `{"v":"b","w":2}`,
	}
	var rows []data.Record
	for i, id := range strings.Split("l k j i h g f e d c b a", " ") {
		r := record("acme", "notes", id, documents[id])
		r.UpdateTime = epoch().Add(time.Duration(i/2) * time.Second)
		rows = append(rows, r)
	}
	create(t, store, collection("acme", "notes"), rows...)
	for _, test := range []struct{ order, want string }{
		{"", "a b c d e f g h i j k l"},
		{"name", "a b c d e f g h i j k l"},
		{"name desc", "l k j i h g f e d c b a"},
		{"data.v", "g h i f e k d c b a l j"},
		{"data.v desc", "j a l b c d k e f g h i"},
		{"data.w desc, data.v", "h f d b l j g i e k c a"},
		{"data.w, data.v desc", "a c k e g i j l b d f h"},
		{"update_time desc", "a b c d e f g h i j k l"},
		{"update_time, name desc", "l k j i h g f e d c b a"},
		{"data.missing", "a b c d e f g h i j k l"},
	} {
		order, err := query.ParseOrder(test.order, data.RecordFields())
		require.NoError(t, err)
		for _, size := range []int{1, 2, 5, 12, 100} {
			t.Run(fmt.Sprintf("%s by %d", test.order, size), func(t *testing.T) {
				require.Equal(t, test.want, pages(t, store, query.List{Order: order, Limit: size}))
			})
		}
	}
}

// pages reads all pages of a list, each cursor through a page token.
func pages(t *testing.T, store data.Store, list query.List) string {
	pager := query.Pager{Secret: []byte("secret")}
	var all []data.Record
	for range 100 {
		page, next, err := store.ListRecords(t.Context(), "acme", "notes", list)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), list.Limit)
		all = append(all, page...)
		if next == nil {
			return ids(all)
		}
		request := query.Request{}
		request.PageToken = pager.Token(next, request)
		parsed, err := pager.Parse(request, data.RecordFields())
		require.NoError(t, err)
		list.After = parsed.After
	}
	t.Fatal("the pages don't end")
	return ""
}
