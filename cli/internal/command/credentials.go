package command

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"weir.dev/cli/development"
	"weir.dev/cli/state"
)

type credentialsReport struct {
	APIKey string `json:"apiKey"`
	Token  string `json:"token"`
	Issuer string `json:"issuer"`
}

func (a *App) credentialsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "credentials", Short: "Print the API key and a fresh token, good for an hour", Args: arguments(0, 0),
	}
	format := outputFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		asJSON, err := isJSON(*format)
		if err != nil {
			return err
		}
		dir, err := a.state()
		if err != nil {
			return err
		}
		report, err := a.credentials(dir)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(a.Stdout, report)
		}
		fmt.Fprintf(a.Stdout, "API key  %s\ntoken    %s\nissuer   %s\n", report.APIKey, report.Token, report.Issuer)
		return nil
	}
	return c
}

func (a *App) credentials(dir state.Dir) (credentialsReport, error) {
	credentials, err := development.OpenCredentials(dir.Credentials())
	if errors.Is(err, os.ErrNotExist) {
		return credentialsReport{}, fmt.Errorf("no credentials in %s yet: %s up makes them", dir.Root(), a.self())
	}
	if err != nil {
		return credentialsReport{}, err
	}
	token, err := credentials.Token(time.Now())
	return credentialsReport{APIKey: credentials.APIKey(), Token: token, Issuer: development.Issuer}, err
}
