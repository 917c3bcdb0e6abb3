package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// probeTime bounds each program that Probe runs.
const probeTime = 20 * time.Second

// Probe finds out what the node can dump and restore. Where CRIU or runc does
// not work the facts say so in Message and lack the version; an error means
// that the facts could not be found out at all. PeerAddress is left to the caller.
//
// CRIU's check also leaves what it found about the kernel in /run/criu.kdat,
// which makes the first dump faster.
func Probe(ctx context.Context, host Host) (v1alpha1.NodeFacts, error) {
	facts := v1alpha1.NodeFacts{Architecture: runtime.GOARCH}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return facts, fmt.Errorf("read the kernel's release: %w", err)
	}
	facts.KernelVersion = unix.ByteSliceToString(name.Release[:])
	cpuinfo, err := os.ReadFile(filepath.Join(host.ProcRoot, "cpuinfo"))
	if err != nil {
		return facts, fmt.Errorf("read the processor's features: %w", err)
	}
	facts.CPUFeatures = cpuFeatures(string(cpuinfo))

	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	var problems []error
	facts.RuncVersion, err = version(ctx, host, "runc", "runc version ")
	problems = append(problems, err)
	facts.CRIUVersion, err = version(ctx, host, "criu", "Version: ")
	if err == nil {
		if _, err = host.output(ctx, "criu", "check"); err != nil {
			facts.CRIUVersion = ""
		}
	}
	problems = append(problems, err)
	if err := errors.Join(problems...); err != nil {
		facts.Message = err.Error()
	}
	return facts, ctx.Err()
}

// version asks a program for its version, which stands behind prefix.
func version(ctx context.Context, host Host, program, prefix string) (string, error) {
	text, err := host.output(ctx, program, "--version")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(strings.TrimSpace(line), prefix); found {
			// Distributions add a suffix, as in "1.1.15+ds1".
			end := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
			if end >= 0 {
				rest = rest[:end]
			}
			return rest, nil
		}
	}
	return "", fmt.Errorf("%s --version names no version: %q", program, strings.TrimSpace(text))
}

// cpuFeatures returns the features that a program can come to depend on: once
// it has chosen its code by them, a processor that lacks one kills it. Flags
// for mitigations and power management are left out, for they would only keep
// equal machines apart.
func cpuFeatures(cpuinfo string) []string {
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "Features": // arm64 lists nothing but instructions
			features := strings.Fields(value)
			slices.Sort(features)
			return features
		case "flags":
			features := slices.DeleteFunc(strings.Fields(value), func(flag string) bool { return !isInstruction(flag) })
			slices.Sort(features)
			return slices.Compact(features)
		}
	}
	return nil
}

var (
	instructionPrefixes = []string{"sse", "avx", "amx", "xsave", "bmi", "sha"}
	instructions        = []string{
		"3dnow", "3dnowext", "3dnowprefetch", "abm", "adx", "aes", "cldemote", "clflushopt", "clwb", "clzero", "cmov", "cx16", "cx8", "erms",
		"f16c", "fma", "fma4", "fpu", "fsgsbase", "fsrm", "fxsr", "gfni", "hle", "lahf_lm", "lm", "misalignsse", "mmx", "mmxext", "movbe",
		"movdir64b", "movdiri", "mpx", "ospke", "pclmulqdq", "pku", "pni", "popcnt", "rdpid", "rdrand", "rdseed", "rdtscp",
		"rtm", "serialize", "sha_ni", "ssse3", "syscall", "tbm", "user_shstk", "vaes", "vpclmulqdq", "wbnoinvd", "xgetbv1", "xop",
	}
)

func isInstruction(flag string) bool {
	_, listed := slices.BinarySearch(instructions, flag)
	return listed || slices.ContainsFunc(instructionPrefixes, func(p string) bool { return strings.HasPrefix(flag, p) })
}
