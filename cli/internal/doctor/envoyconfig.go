package doctor

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"weir.dev/cli/internal/envoylint"
	"weir.dev/policy"
)

const envoyConfiguration = "envoy configuration"

// configTimeout bounds asking an Envoy for its configuration.
const configTimeout = 10 * time.Second

// ExamineEnvoy looks at the configuration of one Envoy: a file, or the address of
// a running one's admin server, as http://host:port.
func ExamineEnvoy(ctx context.Context, source string) ([]Finding, error) {
	content, err := envoyConfig(ctx, source)
	if err != nil {
		return nil, err
	}
	found, err := envoylint.Lint(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	findings := make([]Finding, 0, len(found)+1)
	for _, f := range found {
		level := Warning
		if f.Error {
			level = Error
		}
		findings = append(findings, Finding{
			Check: envoyConfiguration, Level: level, Code: string(f.Code), Fix: policy.Explanations()[f.Code],
			Message: fmt.Sprintf("%s: %s [%s]", f.Where, f.Message, f.Code),
		})
	}
	if len(findings) == 0 {
		findings = one(envoyConfiguration, OK, "", "%s: nothing in it undoes what extauthz does", source)
	}
	return findings, nil
}

// checkOwnEnvoy looks at the configuration of the Envoy that runs, as at another's.
func checkOwnEnvoy(ctx context.Context, p Patient) []Finding {
	for i := range p.Record.Components {
		component := &p.Record.Components[i]
		if !p.Running || component.Name != "envoy" || component.Probe == "" {
			continue
		}
		admin, err := url.Parse(component.Probe)
		if err != nil {
			return nil
		}
		found, err := ExamineEnvoy(ctx, admin.Scheme+"://"+admin.Host)
		if err != nil {
			return one(envoyConfiguration, Warning, "look at weir logs envoy", "%v", err)
		}
		return found
	}
	return nil
}

func envoyConfig(ctx context.Context, source string) ([]byte, error) {
	if !strings.HasPrefix(source, "http://") && !strings.HasPrefix(source, "https://") {
		info, err := os.Stat(source)
		if err == nil && info.Size() > envoylint.MaxBytes {
			return nil, fmt.Errorf("%s: is %d bytes long; the most is %d", source, info.Size(), int64(envoylint.MaxBytes))
		}
		return os.ReadFile(source)
	}
	ctx, cancel := context.WithTimeout(ctx, configTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(source, "/")+"/config_dump", nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close() //nolint:errcheck // read to its end below
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s; is it the address of an Envoy's admin server?", source, answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, envoylint.MaxBytes+1))
}
