package certs_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/kit/certs"
)

// kept is the mesh as it is after being written and read.
func kept(t *testing.T, mesh *certs.Mesh) *certs.Mesh {
	t.Helper()
	bundle, err := mesh.Bundle()
	require.NoError(t, err)
	again, err := certs.ParseMesh(bundle)
	require.NoError(t, err)
	return again
}

func ensure(t *testing.T, mesh *certs.Mesh, component string, held certs.Bundle, at time.Time) (certs.Bundle, string) {
	t.Helper()
	bundle, why, err := mesh.Ensure(component, held, certs.CertificateLifetime, at)
	require.NoError(t, err)
	return bundle, why
}

// files writes a bundle as a part reads it.
func files(t *testing.T, bundle certs.Bundle) certs.Files {
	t.Helper()
	dir := t.TempDir()
	for name, content := range bundle {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	return certs.FilesIn(dir)
}

func talk(t *testing.T, server, client certs.Bundle) error {
	t.Helper()
	config, err := files(t, server).ServerConfig([]string{certs.PeerID("ingress")})
	require.NoError(t, err)
	clientConfig, err := files(t, client).ClientConfig(certs.PeerID("ratelimit"))
	require.NoError(t, err)
	_, err = call(serve(t, config), clientConfig)
	return err
}

// A part may be one step behind another at any time: Secrets reach pods at
// different times.
func TestRotationNeverParts(t *testing.T) {
	mesh, err := certs.NewMesh(now)
	require.NoError(t, err)
	var servers, clients []certs.Bundle
	step := func(at time.Time) {
		var server, client certs.Bundle
		if len(servers) > 0 {
			server, client = servers[len(servers)-1], clients[len(clients)-1]
		}
		server, _ = ensure(t, mesh, "ratelimit", server, at)
		client, _ = ensure(t, mesh, "ingress", client, at)
		servers, clients = append(servers, server), append(clients, client)
	}
	step(now)
	first := mesh.Trust()
	require.NoError(t, mesh.Rotate(now))
	require.ErrorIs(t, mesh.Rotate(now), certs.ErrRotating)
	step(now)
	require.Equal(t, string(first), string(mesh.Trust()[:len(first)]))
	for _, want := range []string{"signs from now on", "not trusted any more"} {
		mesh = kept(t, mesh)
		now := now.Add(time.Duration(len(servers)-1) * certs.Overlap)
		done, err := mesh.Advance(now.Add(-time.Minute))
		require.NoError(t, err)
		require.Empty(t, done, "not before its time")
		done, err = mesh.Advance(now)
		require.NoError(t, err)
		require.Contains(t, done, want)
		require.Len(t, servers, len(clients))
		step(time.Now())
	}
	mesh = kept(t, mesh)
	require.NotContains(t, string(mesh.Trust()), string(first))
	for i := range servers {
		for j := max(0, i-1); j <= min(i+1, len(clients)-1); j++ {
			require.NoError(t, talk(t, servers[i], clients[j]), "server at step %d, client at %d", i, j)
		}
	}
	require.Error(t, talk(t, servers[0], clients[len(clients)-1]), "without the overlap they would part")
}

func TestMeshRenewsInTime(t *testing.T) {
	mesh, err := certs.NewMesh(now)
	require.NoError(t, err)
	held, why := ensure(t, mesh, "data", nil, now)
	require.Equal(t, "there was none", why)
	again, why := ensure(t, kept(t, mesh), "data", held, now.Add(certs.CertificateLifetime/2))
	require.Empty(t, why)
	require.Equal(t, held, again)
	renewed, why := ensure(t, mesh, "data", held, now.Add(certs.CertificateLifetime*3/4))
	require.Contains(t, why, "a third")
	require.NotEqual(t, held, renewed)
	_, why = ensure(t, mesh, "user", held, now)
	require.Equal(t, "it was for somebody else", why)
	_, why = ensure(t, mesh, "data", certs.Bundle{certs.CertFileName: held[certs.CertFileName]}, now)
	require.Equal(t, "it was damaged", why)
	other, err := certs.NewMesh(now)
	require.NoError(t, err)
	_, why = ensure(t, other, "data", held, now)
	require.Equal(t, "it was signed by another authority", why)

	require.NoError(t, mesh.Rotate(now))
	trusting, why := ensure(t, mesh, "data", held, now)
	require.Equal(t, "the authorities have changed", why)
	require.Equal(t, held[certs.CertFileName], trusting[certs.CertFileName], "the certificate stays")
	require.Equal(t, mesh.Trust(), trusting[certs.CAFileName])
	pair, err := tls.X509KeyPair(trusting[certs.CertFileName], trusting[certs.KeyFileName])
	require.NoError(t, err)
	require.Equal(t, certs.PeerID("data"), pair.Leaf.URIs[0].String())

	for _, lifetime := range []time.Duration{0, time.Minute, 366 * 24 * time.Hour} {
		_, _, err := mesh.Ensure("data", nil, lifetime, now)
		require.ErrorContains(t, err, "is outside 1h0m0s to 8760h0m0s")
	}
}

func TestMeshReplacesItsAuthorityByItself(t *testing.T) {
	mesh, err := certs.NewMesh(now)
	require.NoError(t, err)
	done, err := mesh.Advance(now.Add(certs.AuthorityLifetime / 2))
	require.NoError(t, err)
	require.Empty(t, done)
	at := now.Add(certs.AuthorityLifetime * 3 / 4)
	for _, want := range []string{"is trusted from now on", "signs from now on", "not trusted any more", ""} {
		done, err := mesh.Advance(at)
		require.NoError(t, err)
		require.Contains(t, done, want)
		if want == "" {
			require.Empty(t, done)
		}
		mesh, at = kept(t, mesh), at.Add(certs.Overlap)
	}
	require.True(t, mesh.NotAfter().After(now.Add(certs.AuthorityLifetime)))

	// When nothing is good any more there is nothing to wait for.
	late := mesh.NotAfter().Add(time.Hour)
	_, err = mesh.Advance(late)
	require.NoError(t, err)
	done, err = mesh.Advance(late)
	require.NoError(t, err)
	require.Contains(t, done, "signs from now on")
}

func TestADamagedMeshIsNotReplaced(t *testing.T) {
	mesh, err := certs.NewMesh(now)
	require.NoError(t, err)
	require.NoError(t, mesh.Rotate(now))
	for name, want := range map[string]string{
		certs.CertFileName: "the authority is damaged", certs.KeyFileName: "the authority is damaged",
		"next.crt": "the next authority is damaged", "next.key": "the next authority is damaged",
	} {
		bundle, err := mesh.Bundle()
		require.NoError(t, err)
		bundle[name] = []byte("garbage")
		_, err = certs.ParseMesh(bundle)
		require.ErrorContains(t, err, want, name)
	}
	_, err = certs.ParseMesh(certs.Bundle{})
	require.Error(t, err)
	_, err = mesh.Advance(now.Add(certs.Overlap))
	require.NoError(t, err)
	bundle, err := mesh.Bundle()
	require.NoError(t, err)
	bundle["retired-at"] = []byte("yesterday")
	_, err = certs.ParseMesh(bundle)
	require.ErrorContains(t, err, "retired-at")
}

// A Secret's files are links into a folder that is swapped as a whole.
func TestASwappedSecretIsPickedUp(t *testing.T) {
	mesh, err := certs.NewMesh(now)
	require.NoError(t, err)
	dir := t.TempDir()
	project := func(version string, bundle certs.Bundle) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		for name, content := range bundle {
			require.NoError(t, os.WriteFile(filepath.Join(dir, version, name), content, 0o600))
		}
		require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	first, _ := ensure(t, mesh, "ratelimit", nil, now)
	project("..1", first)
	for name := range first {
		require.NoError(t, os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)))
	}
	config, err := certs.FilesIn(dir).ServerConfig([]string{certs.PeerID("ingress")})
	require.NoError(t, err)
	address := serve(t, config)
	client, _ := ensure(t, mesh, "ingress", nil, now)
	clientConfig, err := files(t, client).ClientConfig(certs.PeerID("ratelimit"))
	require.NoError(t, err)
	before, err := call(address, clientConfig)
	require.NoError(t, err)

	second, _ := ensure(t, mesh, "ratelimit", nil, now)
	project("..2", second)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "..1")))
	require.Eventually(t, func() bool {
		renewed, err := call(address, clientConfig)
		require.NoError(t, err, "no handshake fails during a renewal")
		return renewed.SerialNumber.Cmp(before.SerialNumber) != 0
	}, time.Minute, 50*time.Millisecond)
}
