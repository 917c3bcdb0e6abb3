package migrate

import (
	"strings"
	"testing"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

// TestEventsFit: the API server refuses an event with a longer name or note, and then
// nobody is told.
func TestEventsFit(t *testing.T) {
	const uid = "11111111-2222-3333-4444-555555555555"
	long := strings.Repeat("a-", 126)
	for _, name := range []string{"cart-0-4", long} {
		got := eventName(name, "migration", uid)
		if len(got) > 253 || !strings.HasSuffix(got, ".migration."+uid) || !strings.HasPrefix(got, name[:8]) || strings.Contains(got, "-.") {
			t.Errorf("the event about %s is named %s", name, got)
		}
	}
	if got := cut("short"); got != "short" {
		t.Errorf("a short note became %q", got)
	}
	for _, text := range []string{strings.Repeat("a", maxNote+1), strings.Repeat("ä", maxNote)} {
		if got := cut(text); len(got) > maxNote || !utf8.ValidString(got) || !strings.HasSuffix(got, "...") {
			t.Errorf("a long note became %d bytes: %q", len(got), got[len(got)-8:])
		}
	}
}

// TestReasonOf: what proves that the pods run no more says most; what a watcher of
// another version wrote, the API server may refuse.
func TestReasonOf(t *testing.T) {
	for name, tc := range map[string]struct {
		proof     v1alpha1.FenceProof
		annotated v1alpha1.MigrationReason
		want      v1alpha1.MigrationReason
	}{
		"nothing is known":     {v1alpha1.ProofWaited, "", v1alpha1.MigrationNodeLost},
		"known before":         {v1alpha1.ProofWaited, v1alpha1.MigrationSpotInterruption, v1alpha1.MigrationSpotInterruption},
		"a reboot proves it":   {v1alpha1.ProofRebooted, v1alpha1.MigrationNodePressure, v1alpha1.MigrationNodeRebooted},
		"an operator proves":   {v1alpha1.ProofOutOfService, v1alpha1.MigrationNodeDrained, v1alpha1.MigrationNodeOutOfService},
		"of another version":   {v1alpha1.ProofWaited, "NodeEaten", v1alpha1.MigrationNodeLost},
		"of an earlier record": {"", "", v1alpha1.MigrationNodeLost},
	} {
		fence := &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{annotationMigrationReason: string(tc.annotated)}},
			Spec: v1alpha1.FenceSpec{State: v1alpha1.FenceFenced, LostAt: &metav1.MicroTime{}, Proof: tc.proof}}
		fenced, ok := decide.FencedBy(fence)
		if got := reasonOf(fenced); !ok || got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
