package v1alpha1

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseHook(t *testing.T) {
	for value, want := range map[string]*Hook{
		"exec redis-cli save":                             {Timeout: 5 * time.Second, Command: []string{"redis-cli", "save"}},
		" timeout=10s  exec  a  b ":                       {Timeout: 10 * time.Second, Command: []string{"a", "b"}},
		`container=main exec ["sh", "-c", "a && b"]`:      {Container: "main", Timeout: 5 * time.Second, Command: []string{"sh", "-c", "a && b"}},
		"container=main timeout=1m http 8080/quiesce?a=b": {Container: "main", Timeout: time.Minute, Port: 8080, Path: "/quiesce?a=b"},
		"http 80":               {Timeout: 5 * time.Second, Port: 80, Path: "/"},
		"":                      nil,
		"exec":                  nil,
		"exec []":               nil,
		"exec [":                nil,
		"redis-cli save":        nil,
		"timeout=0s exec a":     nil,
		"timeout=61s exec a":    nil,
		"timeout=x exec a":      nil,
		"container= exec a":     nil,
		"timeuot=1s exec a":     nil,
		"http 0/":               nil,
		"http 65536/":           nil,
		"http example.com/path": nil,
		"http 80/a b":           nil,
	} {
		got, ok := ParseHook(value)
		if ok != (want != nil) {
			t.Errorf("%q: %v", value, ok)
		} else if ok {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%q: %s", value, diff)
			}
		}
	}
}
