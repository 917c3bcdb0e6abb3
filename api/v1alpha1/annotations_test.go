package v1alpha1

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseAnnotations(t *testing.T) {
	defaults := Protection{Interval: 30 * time.Second, Replicas: 1, Volumes: VolumesProtect, Strategy: StrategyLive, Connections: ConnectionsClose}
	with := func(change func(*Protection)) Protection {
		p := defaults
		change(&p)
		return p
	}
	for name, tc := range map[string]struct {
		annotations map[string]string
		want        Protection
		wrongKeys   []string
	}{
		"no annotations": {nil, defaults, nil},
		"foreign keys":   {map[string]string{"example.com/failover": "yes"}, defaults, nil},
		"protected":      {map[string]string{AnnotationFailover: "true"}, with(func(p *Protection) { p.Protected = true }), nil},
		"not protected":  {map[string]string{AnnotationFailover: "false"}, defaults, nil},
		"failover yes":   {map[string]string{AnnotationFailover: "yes"}, Protection{}, []string{AnnotationFailover}},
		"failover True":  {map[string]string{AnnotationFailover: "True"}, Protection{}, []string{AnnotationFailover}},
		"everything set": {map[string]string{AnnotationFailover: "true", AnnotationInterval: "2s", AnnotationReplicas: "2", AnnotationVolumes: "ignore"}, Protection{Protected: true, Interval: 2 * time.Second, Replicas: 2, Volumes: VolumesIgnore, Strategy: StrategyLive, Connections: ConnectionsClose}, nil},
		"for moves": {map[string]string{AnnotationStrategy: "application", AnnotationStateExport: "http 80/state", AnnotationStateImport: "http 80/state"},
			with(func(p *Protection) {
				hook := &Hook{Timeout: DefaultHookTimeout, Port: 80, Path: "/state"}
				p.Strategy, p.StateExport, p.StateImport = StrategyApplication, hook, hook
			}), nil},
		"failover asked for": {map[string]string{AnnotationStrategy: "failover"}, Protection{}, []string{AnnotationStrategy}},
		"export by command":  {map[string]string{AnnotationStateExport: "exec dump"}, Protection{}, []string{AnnotationStateExport}},
		"interval of a unit": {map[string]string{AnnotationInterval: "30"}, Protection{}, []string{AnnotationInterval}},
		"interval too short": {map[string]string{AnnotationInterval: "999ms"}, Protection{}, []string{AnnotationInterval}},
		"interval too long":  {map[string]string{AnnotationInterval: "25h"}, Protection{}, []string{AnnotationInterval}},
		"no replicas":        {map[string]string{AnnotationReplicas: "0"}, Protection{}, []string{AnnotationReplicas}},
		"connections":        {map[string]string{AnnotationFailover: "true", AnnotationConnections: "keep"}, Protection{Protected: true, Interval: DefaultInterval, Replicas: 1, Volumes: VolumesProtect, Strategy: StrategyLive, Connections: ConnectionsKeep}, nil},
		"empty value":        {map[string]string{AnnotationVolumes: ""}, Protection{}, []string{AnnotationVolumes}},
		"unknown key":        {map[string]string{"lifeboat.dev/intervall": "2s"}, Protection{}, []string{"lifeboat.dev/intervall"}},
		"several wrong":      {map[string]string{AnnotationVolumes: "x", AnnotationFailover: "x"}, Protection{}, []string{AnnotationFailover, AnnotationVolumes}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseAnnotations(tc.annotations)
			if tc.wrongKeys == nil {
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Error(diff)
				}
				return
			}
			var errs AnnotationErrors
			if !errors.As(err, &errs) {
				t.Fatalf("want AnnotationErrors, got %v", err)
			}
			var keys []string
			for _, e := range errs {
				keys = append(keys, e.Key)
				for _, part := range []string{e.Key, e.Allowed} {
					if part == "" || !strings.Contains(err.Error(), part) {
						t.Errorf("%q does not name %q", err, part)
					}
				}
			}
			if diff := cmp.Diff(tc.wrongKeys, keys); diff != "" {
				t.Error(diff)
			}
		})
	}
}
