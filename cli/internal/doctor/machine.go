package doctor

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"weir.dev/cli/internal/stack"
	"weir.dev/cli/state"
	"weir.dev/kit/certs"
)

// What is enough for development, and what is hardly so.
const (
	fewFiles      = 1024
	enoughFiles   = 4096
	littleSpace   = 100 << 20
	enoughSpace   = 1 << 30
	storeTimeout  = 5 * time.Second
	certWarning   = 14 * 24 * time.Hour
	clockTolerant = 5 * time.Minute
)

func checkFileLimit(context.Context, Patient) []Finding {
	const check, fix = "file limit", "ulimit -n 65536, in the shell that runs weir up"
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return one(check, Warning, fix, "not known: %v", err)
	}
	return judgeFileLimit(limit.Cur)
}

func judgeFileLimit(limit uint64) []Finding {
	const check, fix = "file limit", "ulimit -n 65536, in the shell that runs weir up"
	switch {
	case limit < fewFiles:
		return one(check, Error, fix, "%d open files are too few for Envoy", limit)
	case limit < enoughFiles:
		return one(check, Warning, fix, "%d open files are few: a connection takes two", limit)
	}
	return one(check, OK, "", "%d open files", limit)
}

func checkDisk(_ context.Context, p Patient) []Finding {
	const check = "state folder"
	dir := existing(p.State.Root())
	probe, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return one(check, Error, "make it writable, or choose another with --state-dir", "%v", err)
	}
	_ = probe.Close()
	_ = os.Remove(probe.Name())
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return one(check, Warning, "see df", "free space of %s is not known: %v", dir, err)
	}
	return judgeSpace(p.State.Root(), fs.Bavail*uint64(fs.Bsize)) //nolint:gosec,unconvert // A block size is positive; types differ by platform.
}

func judgeSpace(dir string, free uint64) []Finding {
	const check, fix = "state folder", "make room, or choose another with --state-dir"
	const mega = 1 << 20
	switch {
	case free < littleSpace:
		return one(check, Error, fix, "%s has %d MiB left", dir, free/mega)
	case free < enoughSpace:
		return one(check, Warning, fix, "%s has %d MiB left", dir, free/mega)
	}
	return one(check, OK, "", "%s is writable and has %d MiB left", dir, free/mega)
}

// existing is the nearest folder above path, or path, that is there.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

func checkCertificates(_ context.Context, p Patient) []Finding {
	const check = "certificates"
	paths := []string{filepath.Join(stack.AuthorityDir(p.State), certs.CAFileName)}
	if _, err := os.Stat(paths[0]); errors.Is(err, os.ErrNotExist) {
		return one(check, OK, "", "none yet; the first weir up makes them")
	}
	for _, identity := range stack.Identities() {
		paths = append(paths, filepath.Join(p.State.Certs(), identity, certs.CertFileName))
	}
	var findings []Finding
	for _, path := range paths {
		findings = append(findings, checkCertificate(path, p.Now)...)
	}
	if len(findings) == 0 {
		return one(check, OK, "", "%d are valid, and the clock agrees with them", len(paths))
	}
	return findings
}

func checkCertificate(path string, now time.Time) []Finding {
	const check = "certificates"
	const renew = "weir down, then weir up: it renews what has expired"
	authority := filepath.Base(path) == certs.CAFileName
	fix := renew
	if authority {
		fix = "weir down, remove " + filepath.Dir(filepath.Dir(path)) + ", then weir up: it makes new ones"
	}
	raw, err := state.ReadFile(path)
	if err != nil {
		return one(check, Error, fix, "%v", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return one(check, Error, fix, "%s holds no PEM certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	switch {
	case err != nil:
		return one(check, Error, fix, "%s: %v", path, err)
	case now.Before(cert.NotBefore.Add(-clockTolerant)):
		return one("clock", Error, "set the clock (timedatectl set-ntp true)", "it is %s here, and %s is valid from %s",
			now.UTC().Format(time.RFC3339), path, cert.NotBefore.UTC().Format(time.RFC3339))
	case now.After(cert.NotAfter):
		return one(check, Error, fix+"; if that is not so, set the clock", "%s expired on %s", path, cert.NotAfter.UTC().Format(time.RFC3339))
	case now.After(cert.NotAfter.Add(-certWarning)):
		return one(check, Warning, fix, "%s expires on %s", path, cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func checkPostgres(ctx context.Context, p Patient) []Finding {
	const check = "PostgreSQL"
	url := p.Getenv("WEIR_POSTGRES_URL")
	if url == "" {
		return one(check, OK, "", "not used: WEIR_POSTGRES_URL is not set, so data is in SQLite below %s", p.State.Data())
	}
	const fix = "start it or mend WEIR_POSTGRES_URL (postgres://user:password@host:port/database); unset it to use SQLite"
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return one(check, Error, fix, "WEIR_POSTGRES_URL cannot be read") // The error may quote the password.
	}
	where := fmt.Sprintf("%s:%d/%s", config.Host, config.Port, config.Database)
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return one(check, Error, fix, "%s cannot be reached: %s", where, withoutSecret(err, config.Password))
	}
	defer conn.Close(ctx) //nolint:errcheck // Only looked at.
	if err := conn.Ping(ctx); err != nil {
		return one(check, Error, fix, "%s does not answer: %s", where, withoutSecret(err, config.Password))
	}
	return one(check, OK, "", "%s answers", where)
}

func checkRedis(ctx context.Context, p Patient) []Finding {
	const check = "Redis"
	url := p.Getenv("WEIR_REDIS_URL")
	if url == "" {
		return one(check, OK, "", "not used: WEIR_REDIS_URL is not set, so limits are counted in memory")
	}
	const fix = "start it or mend WEIR_REDIS_URL (redis://user:password@host:port/0); unset it to count in memory"
	options, err := redis.ParseURL(url)
	if err != nil {
		return one(check, Error, fix, "WEIR_REDIS_URL cannot be read")
	}
	options.DialTimeout, options.MaxRetries = storeTimeout, -1
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	client := redis.NewClient(options)
	defer func() { _ = client.Close() }()
	if err := client.Ping(ctx).Err(); err != nil {
		return one(check, Error, fix, "%s cannot be reached: %s", options.Addr, withoutSecret(err, options.Password))
	}
	return one(check, OK, "", "%s answers", options.Addr)
}

// withoutSecret is the error on one line, without the password.
func withoutSecret(err error, secret string) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if secret != "" {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return text
}
