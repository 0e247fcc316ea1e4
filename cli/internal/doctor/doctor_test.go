package doctor

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/internal/stack"
	"weir.dev/cli/state"
	"weir.dev/kit/certs"
)

func patient(t *testing.T, env map[string]string) Patient {
	t.Helper()
	dir, err := state.At(filepath.Join(t.TempDir(), "state"))
	require.NoError(t, err)
	return Patient{State: dir, Getenv: func(key string) string { return env[key] }, Now: time.Now()}
}

func only(t *testing.T, findings []Finding) Finding {
	t.Helper()
	require.Len(t, findings, 1)
	require.Equal(t, findings[0].Level != OK, findings[0].Fix != "", "a fix for each finding: %+v", findings[0])
	return findings[0]
}

func TestJudgements(t *testing.T) {
	require.Equal(t, Error, only(t, judgeFileLimit(256)).Level)
	require.Equal(t, Warning, only(t, judgeFileLimit(1024)).Level)
	require.Equal(t, OK, only(t, judgeFileLimit(65536)).Level)
	require.Equal(t, Error, only(t, judgeSpace("/s", 50<<20)).Level)
	require.Equal(t, Warning, only(t, judgeSpace("/s", 500<<20)).Level)
	require.Equal(t, OK, only(t, judgeSpace("/s", 5<<30)).Level)
}

func TestCertificates(t *testing.T) {
	p := patient(t, nil)
	require.Equal(t, OK, only(t, checkCertificates(context.Background(), p)).Level)
	made := time.Now()
	authority, err := certs.OpenAuthority(stack.AuthorityDir(p.State), made)
	require.NoError(t, err)
	for _, identity := range stack.Identities() {
		_, err := authority.Issue(identity, filepath.Join(p.State.Certs(), identity), made)
		require.NoError(t, err)
	}
	for name, tc := range map[string]struct {
		now   time.Time
		level Level
		check string
	}{
		"now":         {made, OK, "certificates"},
		"soon over":   {made.Add(certs.CertificateLifetime - 24*time.Hour), Warning, "certificates"},
		"expired":     {made.Add(certs.CertificateLifetime + time.Hour), Error, "certificates"},
		"clock wrong": {made.Add(-24 * time.Hour), Error, "clock"},
	} {
		p.Now = tc.now
		for _, finding := range checkCertificates(context.Background(), p) {
			require.Equal(t, tc.level, finding.Level, "%s: %+v", name, finding)
			require.Equal(t, tc.check, finding.Check)
		}
	}
	p.Now = made
	require.NoError(t, os.Remove(filepath.Join(p.State.Certs(), "user", certs.CertFileName)))
	require.Equal(t, Error, only(t, checkCertificates(context.Background(), p)).Level)
}

func TestStoresThatCannotBeReachedKeepTheirPassword(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := closed.Addr().String()
	require.NoError(t, closed.Close())
	for _, env := range []map[string]string{
		{"WEIR_POSTGRES_URL": "postgres://me:hunter2@" + address + "/weir", "WEIR_REDIS_URL": "redis://:hunter2@" + address + "/0"},
		{"WEIR_POSTGRES_URL": "postgres://me:hunter2@" + address + ":x/", "WEIR_REDIS_URL": "http://:hunter2@x"},
	} {
		p := patient(t, env)
		for _, finding := range append(checkPostgres(context.Background(), p), checkRedis(context.Background(), p)...) {
			require.Equal(t, Error, finding.Level)
			require.NotContains(t, finding.Message+finding.Fix, "hunter2")
			require.NotContains(t, finding.Message, "\n")
		}
	}
	p := patient(t, nil)
	require.Equal(t, OK, only(t, checkPostgres(context.Background(), p)).Level)
	require.Equal(t, OK, only(t, checkRedis(context.Background(), p)).Level)
}

func TestDiskLooksAboveAFolderThatIsNotThereYet(t *testing.T) {
	p := patient(t, nil)
	require.NotEqual(t, Error, only(t, checkDisk(context.Background(), p)).Level)
	require.NoDirExists(t, p.State.Root(), "the doctor changes nothing")
}

func TestPorts(t *testing.T) {
	p := patient(t, nil)
	p.Claimer = stack.SystemClaimer{}
	require.Equal(t, Warning, only(t, checkPorts(context.Background(), p)).Level)
	p.PolicyDir = t.TempDir()
	require.Equal(t, Error, only(t, checkPorts(context.Background(), p)).Level)
	p.Running = true
	require.Equal(t, OK, only(t, checkPorts(context.Background(), p)).Level)
}

func TestRunningComponents(t *testing.T) {
	p := patient(t, nil)
	p.Running = true
	p.Record = state.Record{Components: []state.Component{{Name: "datad", State: "ready"}}}
	require.Equal(t, OK, only(t, checkProcesses(context.Background(), p)).Level)
	p.Record.Components[0].State, p.Record.Components[0].Error = "restarting", "exit status 1"
	finding := only(t, checkProcesses(context.Background(), p))
	require.Equal(t, Error, finding.Level)
	require.Contains(t, finding.Message, "datad is restarting exit status 1")
}
