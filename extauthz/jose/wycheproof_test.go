package jose_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz/jose"
)

// The module asks for a newer Go than this one does, so it is read from the
// module cache, where the go command puts it, and is no dependency.
const wycheproof = "github.com/c2sp/wycheproof@v0.0.0-20260902155932-3fa63dd0344a"

// digests of the files with the numbers of their vectors.
func files() map[string]struct {
	sha256 string
	count  int
} {
	return map[string]struct {
		sha256 string
		count  int
	}{
		"json_web_signature": {"8e687a06fe8359f4ec51480f1a9f73c8faebd6f4c01b818b843b44eee54fd5d9", 401},
		"json_web_key":       {"be983255bce26406f97020ec5458b33930a90d5f868e604fcd569c300aba2862", 26},
	}
}

// download is the folder of the vectors.
func download(t *testing.T) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", wycheproof)
	command.Dir = t.TempDir()
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	raw, err := command.Output()
	require.NoError(t, err, "%s", raw)
	var module struct{ Dir string }
	require.NoError(t, json.Unmarshal(raw, &module))
	return filepath.Join(module.Dir, "testvectors_v1")
}

type vectors struct {
	NumberOfTests int `json:"numberOfTests"`
	TestGroups    []struct {
		Comment         string `json:"comment"`
		Public, Private json.RawMessage
		Tests           []struct {
			ID      int             `json:"tcId"`
			Comment string          `json:"comment"`
			JWS     json.RawMessage `json:"jws"`
			Result  string          `json:"result"`
			Flags   []string        `json:"flags"`
		} `json:"tests"`
	} `json:"testGroups"`
}

// decisions reads testdata/wycheproof.md: what is decided otherwise than, or
// beyond, what a vector says, by file and number.
func decisions(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile("testdata/wycheproof.md")
	require.NoError(t, err)
	decided := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(line, "|")
		if len(cells) < 6 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "json_") {
			continue
		}
		for id := range strings.FieldsSeq(strings.ReplaceAll(cells[2], ",", " ")) {
			decided[strings.TrimSpace(cells[1])+" "+id] = strings.TrimSpace(cells[4])
		}
	}
	return decided
}

// TestWycheproof holds that each vector comes out as it says, or as the table in
// testdata says with its reason.
func TestWycheproof(t *testing.T) {
	decided := decisions(t)
	used := map[string]bool{}
	folder := download(t)
	for file, pinned := range files() {
		raw, err := os.ReadFile(filepath.Join(folder, file+"_test.json"))
		require.NoError(t, err)
		sum := sha256.Sum256(raw)
		require.Equal(t, pinned.sha256, hex.EncodeToString(sum[:]))
		var all vectors
		require.NoError(t, json.Unmarshal(raw, &all))
		require.Equal(t, pinned.count, all.NumberOfTests)
		for _, group := range all.TestGroups {
			public := group.Public
			if public == nil {
				public = group.Private
			}
			for _, test := range group.Tests {
				id := fmt.Sprintf("%s %d", file, test.ID)
				t.Run(id+" "+group.Comment+" "+test.Comment, func(t *testing.T) {
					want := test.Result
					if other, ok := decided[id]; ok {
						want, used[id] = other, true
					} else if has(test.Flags, "Ambiguous") {
						t.Fatalf("is ambiguous and not decided in testdata/wycheproof.md: %s", test.JWS)
					}
					var token string
					got := "invalid"
					if json.Unmarshal(test.JWS, &token) == nil {
						got = verdict(public, token)
					}
					require.Equal(t, want, got, "key %s\ntoken %s", public, test.JWS)
				})
			}
		}
	}
	for id := range decided {
		require.True(t, used[id], "%s is decided and is no vector", id)
	}
}

func has(list []string, wanted string) bool {
	for _, element := range list {
		if element == wanted {
			return true
		}
	}
	return false
}

// verdict is "valid", "invalid", or "symmetric" for a token that this package
// refuses for its algorithm alone: its form is right and its HMAC, computed here,
// too. So vectors about the form that use HMAC are checked as well.
func verdict(key json.RawMessage, token string) string {
	document := []byte(key)
	if !strings.Contains(string(key), `"keys"`) {
		document = []byte(`{"keys":[` + string(key) + `]}`)
	}
	if accepts(document, token) {
		return "valid"
	}
	if symmetric(document, token) {
		return "symmetric"
	}
	return "invalid"
}

func accepts(document []byte, token string) bool {
	set, err := jose.ParseKeySet(document)
	if err != nil {
		return false
	}
	compact, err := jose.Split(token)
	if err != nil {
		return false
	}
	header, err := compact.Header()
	if err != nil || jose.CheckHeader(header) != nil {
		return false
	}
	algorithm, _ := header["alg"].(string)
	id, _ := header["kid"].(string)
	key, _ := set.Find(id, algorithm)
	if key == nil {
		return false
	}
	return key.Verify(algorithm, compact.SigningInput, compact.Signature) == nil
}

func symmetric(document []byte, token string) bool {
	var set struct {
		Keys []struct{ Kty, Alg, Use, Kid, K string }
	}
	compact, err := jose.Split(token)
	if json.Unmarshal(document, &set) != nil || err != nil {
		return false
	}
	header, err := compact.Header()
	if err != nil || jose.CheckHeader(header) != nil {
		return false
	}
	hashes := map[string]func() hash.Hash{"HS256": sha256.New, "HS384": sha512.New384, "HS512": sha512.New}
	ids, right := map[string]int{}, false
	for _, key := range set.Keys {
		if ids[key.Kid]++; key.Kty != "oct" {
			return false // a mixed set
		}
		made := hashes[key.Alg]
		secret, err := jose.DecodeBase64(key.K)
		if key.Use == "enc" || made == nil || header["alg"] != key.Alg || err != nil || len(secret) < made().Size() {
			continue
		}
		if id, set := header["kid"]; set && id != key.Kid {
			continue
		}
		mac := hmac.New(made, secret)
		mac.Write([]byte(compact.SigningInput))
		right = right || hmac.Equal(mac.Sum(nil), compact.Signature)
	}
	id, _ := header["kid"].(string)
	return right && (id == "" || ids[id] == 1)
}
