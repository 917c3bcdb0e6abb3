package main

import (
	"fmt"
	"maps"
	"testing"
	"time"
)

func TestFreezesAreRead(t *testing.T) {
	begin := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }
	line := func(seconds float64, message, key, value string) string {
		return fmt.Sprintf(`{"time":%q,"level":"WARN","msg":%q,"node":"n1",%q:%q}`+"\n", at(seconds).Format(time.RFC3339Nano), message, key, value)
	}
	const frozen, thawed = "pod is frozen: the node's permission to run it has run out", "pod thawed: the node is permitted to run it again"
	const group = "/kubepods/burstable/pod7caac80e-5592-4a9d-b108-951022cee4cc"
	const slice = "/kubepods.slice/kubepods-burstable-pod7caac80e_5592_4a9d_b108_951022cee4cc.slice"
	for name, test := range map[string]struct {
		logs  []string // what each look at the log returns
		want  map[string]time.Duration
		ended int
	}{
		"none": {[]string{line(1, "the node may run protected pods", "epoch", "1")}, map[string]time.Duration{}, 0},
		"one": {
			[]string{line(1, frozen, "pod", "shop/cart-0") + "not JSON\n" + line(1.5, thawed, "cgroup", group)},
			map[string]time.Duration{"shop/cart-0": 500 * time.Millisecond}, 1,
		},
		"a line that comes twice counts once": {
			[]string{line(1, frozen, "pod", "shop/cart-0"), line(1, frozen, "pod", "shop/cart-0") + line(3, thawed, "cgroup", slice), line(3, thawed, "cgroup", slice)},
			map[string]time.Duration{"shop/cart-0": 2 * time.Second}, 1,
		},
		"frozen again while frozen": {
			[]string{line(1, frozen, "pod", "shop/cart-0") + line(2, frozen, "pod", "shop/cart-0") + line(4, thawed, "cgroup", group)},
			map[string]time.Duration{"shop/cart-0": 3 * time.Second}, 1,
		},
		"the longest of two, and one that lasts": {
			[]string{line(1, frozen, "pod", "shop/cart-0") + line(2, thawed, "cgroup", group) +
				line(3, frozen, "pod", "shop/cart-0") + line(3.1, thawed, "cgroup", group) + line(9, frozen, "pod", "shop/redis")},
			map[string]time.Duration{"shop/cart-0": time.Second, "shop/redis": time.Second}, 2,
		},
		"somebody else's": {[]string{line(1, frozen, "pod", "") + line(2, thawed, "cgroup", "/elsewhere")}, map[string]time.Duration{}, 0},
	} {
		f := newFreezes()
		f.pods["7caac80e-5592-4a9d-b108-951022cee4cc"] = "shop/cart-0"
		for _, log := range test.logs {
			f.take("fencer", log)
		}
		if got := f.until(at(10)); !maps.Equal(got, test.want) || f.ended != test.ended {
			t.Errorf("%s: %v and %d ended, want %v and %d", name, got, f.ended, test.want, test.ended)
		}
	}
}
