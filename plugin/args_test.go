package plugin

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestParseArgs(t *testing.T) {
	const head = "apiVersion: lifeboat.dev/v1alpha1\nkind: LifeboatArgs\n"
	for name, tc := range map[string]struct {
		from runtime.Object
		want []string // parts of the error; none for success
	}{
		"none":            {nil, nil},
		"empty":           {&runtime.Unknown{}, nil},
		"defaults":        {unknown(t, head), nil},
		"all":             {unknown(t, head+"holdPods: false\ndomainLabel: rack\nlocalBytesPerSecond: 2G\nremoteBytesPerSecond: 1G\nstartTime: 1s\nremoteStartTime: 0s\nimagePullTime: 1m\nfailureTime: 0s\nfailureHalfLife: 1h\npressureTime: 0s\nsameDomainTime: 0s\n"), nil},
		"no domains":      {unknown(t, head+`domainLabel: ""`), nil},
		"no version":      {unknown(t, "holdPods: true"), []string{`args.apiVersion: Unsupported value: ""`, `"lifeboat.dev/v1alpha1"`, `args.kind: Unsupported value: ""`}},
		"another version": {unknown(t, "apiVersion: lifeboat.dev/v2\nkind: LifeboatArgs\nlater: 1"), []string{`args.apiVersion: Unsupported value: "lifeboat.dev/v2"`}},
		"another kind":    {unknown(t, "apiVersion: lifeboat.dev/v1alpha1\nkind: CoschedulingArgs"), []string{`args.kind: Unsupported value: "CoschedulingArgs": supported values: "LifeboatArgs"`}},
		"unknown field":   {unknown(t, head+"holdPod: true"), []string{`unknown field "holdPod"`}},
		"wrong type":      {unknown(t, head+"startTime: soon"), []string{`"soon"`}},
		"not a quantity":  {unknown(t, head+"localBytesPerSecond: fast"), []string{"quantities must match"}},
		"several are wrong": {unknown(t, head+"domainLabel: a zone\nremoteBytesPerSecond: \"0\"\nfailureHalfLife: 0s\npressureTime: -1s"), []string{
			`args.domainLabel: Invalid value: "a zone"`, `args.remoteBytesPerSecond: Invalid value: "0": must be greater than 0`,
			`args.failureHalfLife: Invalid value: "0s": must be greater than 0`, `args.pressureTime: Invalid value: "-1s": must not be negative`,
		}},
		"another plugin's": {&v1alpha1.Fence{}, []string{"*v1alpha1.Fence"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseArgs(tc.from)
			if (err != nil) != (len(tc.want) > 0) {
				t.Fatalf("error %v; want one: %v", err, len(tc.want) > 0)
			}
			for _, part := range tc.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q\nlacks %q", err, part)
				}
			}
		})
	}
	args, err := ParseArgs(unknown(t, head+"holdPods: false\nlocalBytesPerSecond: 2G\nimagePullTime: 1m"))
	if err != nil {
		t.Fatal(err)
	}
	if m := args.model(); *args.HoldPods || m.LocalBytesPerSecond != 2e9 || m.RemoteBytesPerSecond != 4e8 || m.ImagePull != time.Minute || m.Start != 500*time.Millisecond {
		t.Errorf("arguments give %+v", m)
	}
}
