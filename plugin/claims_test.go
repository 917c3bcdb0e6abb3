package plugin

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// Whatever the order of the calls, a Migration has at most one claimant, a pod
// at most one Migration, and what was refused was truly taken.
func TestClaimsProperty(t *testing.T) {
	names := func(prefix string) *rapid.Generator[types.UID] {
		return rapid.Custom(func(t *rapid.T) types.UID {
			return types.UID(prefix + string(rune('0'+rapid.IntRange(0, 3).Draw(t, prefix))))
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		c := newClaims()
		holds := map[types.UID]types.UID{} // pod → Migration, kept apart from the code under test
		holder := func(migration types.UID) (types.UID, bool) {
			for pod, m := range holds {
				if m == migration {
					return pod, true
				}
			}
			return "", false
		}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				migration, pod := names("m").Draw(t, "migration"), names("p").Draw(t, "pod")
				other, taken := holder(migration)
				want := !taken || other == pod
				if got := c.reserve(migration, pod); got != want {
					t.Fatalf("reserve(%s, %s) = %v while %q has it", migration, pod, got, other)
				}
				if want {
					holds[pod] = migration
				}
			},
			"release": func(t *rapid.T) {
				pod := names("p").Draw(t, "pod")
				c.release(pod)
				delete(holds, pod)
			},
			"forget": func(t *rapid.T) {
				migration := names("m").Draw(t, "migration")
				c.forget(migration)
				if pod, taken := holder(migration); taken {
					delete(holds, pod)
				}
			},
			"": func(t *rapid.T) {
				for m := range 4 {
					migration := types.UID("m" + string(rune('0'+m)))
					claimant, taken := holder(migration)
					free := 0
					for p := range 4 {
						pod := types.UID("p" + string(rune('0'+p)))
						if c.free(migration, pod) {
							free++
							if taken && pod != claimant {
								t.Fatalf("%s is free for %s while %s has it", migration, pod, claimant)
							}
						}
					}
					if taken && free != 1 || !taken && free != 4 {
						t.Fatalf("%s is free for %d pods; taken: %v", migration, free, taken)
					}
				}
			},
		})
	})
}
