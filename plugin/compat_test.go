package plugin

import (
	"testing"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestCompatible(t *testing.T) {
	facts := func(change func(*v1alpha1.NodeFacts)) v1alpha1.NodeFacts {
		f := v1alpha1.NodeFacts{
			Architecture: "amd64", KernelVersion: "6.12.1-amd64", CRIUVersion: "4.2.1",
			CPUFeatures: []string{"avx", "avx2", "sse2"},
		}
		if change != nil {
			change(&f)
		}
		return f
	}
	criu := func(v string) v1alpha1.NodeFacts { return facts(func(f *v1alpha1.NodeFacts) { f.CRIUVersion = v }) }
	kernel := func(v string) v1alpha1.NodeFacts {
		return facts(func(f *v1alpha1.NodeFacts) { f.KernelVersion = v })
	}
	cpu := func(v ...string) v1alpha1.NodeFacts {
		return facts(func(f *v1alpha1.NodeFacts) { f.CPUFeatures = v })
	}
	architecture := func(v string) v1alpha1.NodeFacts {
		return facts(func(f *v1alpha1.NodeFacts) { f.Architecture = v })
	}

	for name, tc := range map[string]struct {
		source, target v1alpha1.NodeFacts
		want           string
	}{
		"twins":                         {facts(nil), facts(nil), ""},
		"source unknown":                {v1alpha1.NodeFacts{}, facts(nil), ""},
		"source unknown, no CRIU":       {v1alpha1.NodeFacts{}, criu(""), "CRIU does not work there"},
		"both unknown":                  {v1alpha1.NodeFacts{}, v1alpha1.NodeFacts{}, "CRIU does not work there"},
		"target unknown":                {facts(nil), v1alpha1.NodeFacts{}, "its checkpointer has not reported the architecture"},
		"other architecture":            {facts(nil), architecture("arm64"), "its architecture is arm64, the checkpoint's amd64"},
		"CRIU newer":                    {criu("4.1.1"), criu("4.2.1"), ""},
		"CRIU newer by two digits":      {criu("4.9"), criu("4.10"), ""},
		"CRIU older":                    {criu("4.2.1"), criu("4.1.1"), "CRIU 4.1.1 is older than 4.2.1 that made the checkpoint"},
		"CRIU older in the patch":       {criu("4.2.1"), criu("4.2"), "CRIU 4.2 is older than 4.2.1 that made the checkpoint"},
		"CRIU oldest supported":         {criu("4.1"), criu("4.1"), ""},
		"CRIU too old on both":          {criu("3.19"), criu("3.19"), "CRIU 3.19 is older than 4.1, the oldest that is supported"},
		"CRIU not a version":            {facts(nil), criu("unknown"), `its CRIU version "unknown" cannot be read`},
		"CRIU of a source build":        {criu("4.2.1-12-gabcdef"), criu("4.2.1"), ""},
		"kernel newer":                  {kernel("5.15.0-91-generic"), kernel("6.1.0-18-amd64"), ""},
		"kernel older in the patch":     {kernel("6.12.30"), kernel("6.12.1"), ""},
		"kernel older in the minor":     {kernel("6.12.1-amd64"), kernel("6.8.0-45-generic"), "kernel 6.8.0-45-generic is older than 6.12.1-amd64 that ran the pod"},
		"kernel not a version":          {facts(nil), kernel("linux"), `its kernel version "linux" cannot be read`},
		"more CPU features":             {cpu("avx", "sse2"), cpu("avx", "avx2", "sse2"), ""},
		"one CPU feature missing":       {facts(nil), cpu("avx", "sse2"), "its processor lacks avx2, which the pod may use"},
		"many CPU features missing":     {cpu("a", "b", "c", "d", "e", "f"), cpu("x"), "its processor lacks a, b, c, d and 2 more, which the pod may use"},
		"CPU features of one unknown":   {facts(nil), cpu(), ""},
		"CPU features in another order": {cpu("sse2", "avx"), cpu("avx", "sse2"), ""},
		"CRIU broken, with its reason": {facts(nil), facts(func(f *v1alpha1.NodeFacts) {
			f.CRIUVersion, f.Message = "", "criu is not in PATH"
		}), "CRIU does not work there: criu is not in PATH"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Compatible(tc.source, tc.target); got != tc.want {
				t.Errorf("Compatible = %q\n      want %q", got, tc.want)
			}
		})
	}
}
