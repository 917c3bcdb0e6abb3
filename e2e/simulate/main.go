// Command simulate plays random histories of a cluster against the code that
// decides who may run: the watcher's facts and decisions, and the nodes' permits
// and promises. It looks for a moment at which a pod runs twice, or for a pod that
// nobody brings back. A history is made from a seed and its number alone, so that
// each failure can be played again.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/permission"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(1)
	}
}

func run(arguments []string, out io.Writer) error {
	flags := flag.NewFlagSet("simulate", flag.ContinueOnError)
	histories := flags.Uint64("histories", 10_000, "how many histories to play")
	seed := flags.Uint64("seed", 1, "the seed that they are made from")
	history := flags.Int64("history", -1, "play this one alone")
	verbose := flags.Bool("v", false, "with -history: tell what happens in it")
	workers := flags.Int("workers", runtime.NumCPU(), "how many are played at a time")
	name := flags.String("broken", "", "play a protocol that is broken on purpose: "+strings.Join(variantNames(), ", "))
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	o := options{seed: *seed, terms: permission.Default}
	if *name != "" {
		i := slices.Index(variantNames(), *name)
		if i < 0 {
			return fmt.Errorf("there is no broken protocol %q", *name)
		}
		o.broken = variants[i].broken
	}
	if *history >= 0 {
		var told *bufio.Writer
		if *verbose {
			told = bufio.NewWriter(out)
			defer func() { _ = told.Flush() }()
		}
		if failure := retell(o, uint64(*history), told); failure != "" {
			return fmt.Errorf("seed %d, history %d: %s", *seed, *history, failure)
		}
		fmt.Fprintf(out, "seed %d, history %d: nothing is wrong\n", *seed, *history)
		return nil
	}
	began := time.Now()
	total, found := campaign(o, *histories, *workers)
	total.print(out)
	fmt.Fprintf(out, "played in            %s on %d cores\n", time.Since(began).Round(time.Millisecond), *workers)
	if found != nil {
		again := fmt.Sprintf("-seed %d -history %d -v", *seed, found.history)
		if *name != "" {
			again = "-broken " + *name + " " + again
		}
		return fmt.Errorf("seed %d, %s\ntell it with: go run ./e2e/simulate %s", *seed, found, again)
	}
	return nil
}

func variantNames() []string {
	names := make([]string, len(variants))
	for i := range variants {
		names[i] = variants[i].name
	}
	return names
}
