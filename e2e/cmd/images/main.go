// Command images makes the container images of Weir's binaries, as an OCI layout
// with a list of what is in each.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"weir.dev/e2e/cluster/images"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	bin := flags.String("bin", "bin", "folder of the binaries")
	tag := flags.String("tag", "dev", "tag of the images")
	target := flags.String("o", "out/images", "folder to write: oci/ and sbom/; what is there is replaced")
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q: images takes flags alone", flags.Arg(0))
	}
	all, err := images.Weir(*bin, *tag)
	if err != nil {
		return err
	}
	if err := images.WriteLayout(filepath.Join(*target, "oci"), all...); err != nil {
		return err
	}
	if err := images.WriteSBOMs(filepath.Join(*target, "sbom"), *bin, all, time.Now()); err != nil {
		return err
	}
	for _, image := range all {
		fmt.Println(image.Name)
	}
	fmt.Printf("as an OCI layout in %s/oci, what is in them in %s/sbom\n", *target, *target)
	return nil
}
