package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
)

// TestLoanOver: an address is kept for as long as connections at it may live, and no longer.
func TestLoanOver(t *testing.T) {
	now := metav1.NewMicroTime(time.Now())
	claim := &v1alpha1.Claim{PodName: "web-1", PodUID: "new"}
	for name, test := range map[string]struct {
		result v1alpha1.Result
		kept   *v1alpha1.KeptConnections
		want   bool
	}{
		"the target has not answered":           {},
		"connections go on, and the move too":   {kept: &v1alpha1.KeptConnections{OpenedAt: &now}},
		"the target could not keep them":        {kept: &v1alpha1.KeptConnections{EndedAt: &now}, want: true},
		"connections go on":                     {result: v1alpha1.ResultRestored, kept: &v1alpha1.KeptConnections{OpenedAt: &now}},
		"the last connection has ended":         {result: v1alpha1.ResultRestored, kept: &v1alpha1.KeptConnections{OpenedAt: &now, EndedAt: &now}, want: true},
		"another generation was restored":       {result: v1alpha1.ResultRestored, want: true},
		"the pod began anew":                    {result: v1alpha1.ResultColdStarted, kept: &v1alpha1.KeptConnections{}, want: true},
		"the move was withdrawn":                {result: v1alpha1.ResultWithdrawn, want: true},
		"the source was lost before it stopped": {result: v1alpha1.ResultFailed, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := &v1alpha1.Migration{}
			m.Status.Claim, m.Status.Result = claim, test.result
			if test.kept != nil {
				m.Status.Restore = &v1alpha1.RestoreStatus{Connections: test.kept}
			}
			if got := loanOver(m); got != test.want {
				t.Errorf("over: %t, want %t", got, test.want)
			}
		})
	}
}

func TestOwnerOf(t *testing.T) {
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0-3", UID: "6f1c"}}
	if namespace, name, uid := splitOwner(ownerOf(m)); namespace != m.Namespace || name != m.Name || uid != m.UID {
		t.Errorf("read back as %q, %q, %q", namespace, name, uid)
	}
}

// TestSilentPodSpeaks: a pod that was silenced and goes on is silent no more, also where the
// checkpointer ended in between; one that is to be killed stays so.
func TestSilentPodSpeaks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes a network namespace")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	silent := func() bool {
		conn, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		tables, err := conn.ListTables()
		if err != nil {
			t.Fatal(err)
		}
		return len(tables) > 0
	}
	kept := &keptConnections{Address: netip.MustParseAddr("10.244.1.5"), Sandbox: "abc", NetNS: fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())}
	notes, err := openStops(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{log: slog.New(slog.DiscardHandler), stops: notes, host: criu.Host{Root: t.TempDir()}}
	for name, step := range map[string]struct {
		do   func() error
		want bool
	}{
		"released":           {func() error { return kept.held(releasable{}).Release(t.Context()) }, false},
		"found by the next":  {func() error { a.speakAgain(t.Context()); return nil }, false},
		"about to be killed": {func() error { return notes.write(stopNote{PodUID: "old", Kept: kept, Committed: true}) }, true},
		"to be killed by the next": {func() error {
			err := notes.write(stopNote{PodUID: "old", Kept: kept, Committed: true})
			a.speakAgain(t.Context())
			return err
		}, true},
	} {
		if err := notes.write(stopNote{PodUID: "old", Kept: kept}); err != nil {
			t.Fatal(err)
		}
		if err := kept.silence(); err != nil {
			t.Fatal(err)
		}
		if !silent() {
			t.Fatal("the network is not silent")
		}
		if err := step.do(); err != nil || silent() != step.want {
			t.Errorf("%s: silent %t, want %t; %v", name, silent(), step.want, err)
		}
	}
}

// releasable is a pod that can be let go.
type releasable struct{ held }

func (releasable) Release(context.Context) error { return nil }

// TestReasonOf: what the pod's owner can mend is told as such, also when it is wrapped.
func TestReasonOf(t *testing.T) {
	if got := reasonOf(fmt.Errorf("prepare: %w", notAllowed{errors.New("no cable")})); got != v1alpha1.ReasonNotAllowed {
		t.Errorf("the reason is %q", got)
	}
	if got := reasonOf(errors.New("disk full")); got != "" {
		t.Errorf("the reason is %q", got)
	}
}
