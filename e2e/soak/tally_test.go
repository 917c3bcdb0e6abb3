package main

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestFencesAreCounted(t *testing.T) {
	is := func(state v1alpha1.FenceState, epoch int64) v1alpha1.FenceSpec {
		return v1alpha1.FenceSpec{State: state, Epoch: epoch}
	}
	running, lost, fenced := v1alpha1.FenceRunning, v1alpha1.FenceLost, v1alpha1.FenceFenced
	for name, test := range map[string]struct {
		seen                      []v1alpha1.FenceSpec
		declared, refuted, fenced int
	}{
		"at rest":                   {[]v1alpha1.FenceSpec{is(running, 3), is(running, 3)}, 0, 0, 0},
		"refuted":                   {[]v1alpha1.FenceSpec{is(running, 3), is(lost, 3), is(lost, 3), is(running, 3)}, 1, 1, 0},
		"twice":                     {[]v1alpha1.FenceSpec{is(running, 3), is(lost, 3), is(running, 3), is(lost, 3), is(running, 3)}, 2, 2, 0},
		"fenced":                    {[]v1alpha1.FenceSpec{is(running, 3), is(lost, 3), is(fenced, 4), is(running, 4)}, 1, 0, 1},
		"fenced between two looks":  {[]v1alpha1.FenceSpec{is(running, 3), is(running, 4)}, 1, 0, 1},
		"lost at the first look":    {[]v1alpha1.FenceSpec{is(lost, 3), is(running, 3)}, 1, 1, 0},
		"fenced at the first look":  {[]v1alpha1.FenceSpec{is(fenced, 3), is(running, 3)}, 1, 0, 1},
		"lost, and not yet decided": {[]v1alpha1.FenceSpec{is(running, 3), is(lost, 3)}, 1, 0, 0},
	} {
		tally := newTally()
		tally.fence("other", is(running, 9))
		told := 0
		for _, spec := range test.seen {
			if tally.fence("n1", spec) {
				told++
			}
		}
		if tally.declared != test.declared || tally.refuted != test.refuted || tally.fenced != test.fenced || told != test.declared {
			t.Errorf("%s: %d declared (told of %d), %d refuted, %d fenced; want %d, %d, %d",
				name, tally.declared, told, tally.refuted, tally.fenced, test.declared, test.refuted, test.fenced)
		}
	}
}

func pod(uid types.UID, name string, restarts int32) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: uid},
		Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", RestartCount: restarts}}},
	}
}

func TestRestartsAreCounted(t *testing.T) {
	for name, test := range map[string]struct {
		seen [][]corev1.Pod
		want []string
	}{
		"at rest":            {[][]corev1.Pod{{pod("a", "cart", 2)}, {pod("a", "cart", 2)}}, nil},
		"container":          {[][]corev1.Pod{{pod("a", "cart", 2)}, {pod("a", "cart", 3)}, {pod("a", "cart", 3)}}, []string{"container main started anew"}},
		"another pod for it": {[][]corev1.Pod{{pod("a", "cart", 0)}, {pod("b", "cart", 0)}}, []string{"shop/cart is a new pod", "shop/cart is gone"}},
	} {
		tally := newTally()
		for _, pods := range test.seen {
			tally.podsAre(pods)
		}
		got := strings.Join(tally.restarts, "; ")
		if len(tally.restarts) != len(test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q lacks %q", name, got, want)
			}
		}
	}
}

func TestLostLeadIsNoRestart(t *testing.T) {
	watcher := func(restarts int32, code int32) []corev1.Pod {
		p := pod("w", "lifeboat-watcher-1", restarts)
		p.Namespace, p.Status.ContainerStatuses[0].Name = v1alpha1.SystemNamespace, "watcher"
		if restarts > 0 {
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: code}
		}
		return []corev1.Pod{p}
	}
	for code, want := range map[int32]struct{ leads, restarts int }{1: {2, 0}, 2: {0, 1}, 137: {0, 1}} {
		tally := newTally()
		tally.podsAre(watcher(0, 0))
		tally.podsAre(watcher(2, code))
		if tally.leads != want.leads || len(tally.restarts) != want.restarts {
			t.Errorf("ended with %d: %d leads lost and restarts %q", code, tally.leads, tally.restarts)
		}
	}
}

func TestMigrationsThatMovedNothingAreToldApart(t *testing.T) {
	open := v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseDetected, Phases: []v1alpha1.PhaseTime{{Phase: v1alpha1.PhaseDetected}}}
	fenced := v1alpha1.MigrationStatus{Phases: []v1alpha1.PhaseTime{{Phase: v1alpha1.PhaseDetected}, {Phase: v1alpha1.PhaseFenced}}}
	closed := func(s v1alpha1.MigrationStatus, result v1alpha1.Result) v1alpha1.MigrationStatus {
		s.Result = result
		return s
	}
	for name, test := range map[string]struct {
		seen []v1alpha1.MigrationStatus
		want outcome
	}{
		"held":                 {[]v1alpha1.MigrationStatus{open}, held},
		"held, and withdrawn":  {[]v1alpha1.MigrationStatus{open, closed(open, v1alpha1.ResultWithdrawn)}, withdrawn},
		"held, and then begun": {[]v1alpha1.MigrationStatus{open, fenced}, begun},
		"begun, then given up": {[]v1alpha1.MigrationStatus{fenced, closed(open, v1alpha1.ResultWithdrawn)}, begun},
		"closed between looks": {[]v1alpha1.MigrationStatus{closed(open, v1alpha1.ResultFailed)}, begun},
	} {
		tally := newTally()
		for _, status := range test.seen {
			tally.migration(&v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "m"}, Status: status})
		}
		if tally.migrations["shop/m"] != test.want || tally.came(test.want) != 1 {
			t.Errorf("%s: %v, want %s", name, tally.migrations, test.want)
		}
	}
}

func TestVerdict(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*tally)
		want   string // empty: passed
	}{
		"quiet": {func(*tally) {}, ""},
		"refuted in time": {func(t *tally) {
			t.declared, t.refuted, t.froze = 3, 3, 1
			t.frozen = map[string]time.Duration{"shop/cart-0": time.Second}
		}, ""},
		"fenced":          {func(t *tally) { t.fenced = 1 }, "as far as Fenced"},
		"moved":           {func(t *tally) { t.migrations["m"] = begun }, "1 Migrations were begun"},
		"held to the end": {func(t *tally) { t.migrations["m"] = held }, "1 Migrations are still held"},
		"held in between": {func(t *tally) { t.migrations["m"] = withdrawn }, ""},
		"restarted":       {func(t *tally) { t.restarts = []string{"cart is gone"} }, "cart is gone"},
		"killed":          {func(t *tally) { t.kills = 1 }, "killed"},
		"only slow":       {func(t *tally) { t.stood("cart", 9*time.Second) }, ""},
		"frozen":          {func(t *tally) { t.frozen = map[string]time.Duration{"shop/cart-0": 3 * time.Second} }, "was frozen for 3.00 s"},
		"frozen unseen":   {func(t *tally) { t.froze = 1 }, "was not found"},
		"never answered":  {func(t *tally) { t.answers["redis"] = 0 }, "never answered"},
		"another process": {func(t *tally) { t.changed = []string{"redis runs as another process"} }, "another process"},
	} {
		tally := newTally()
		tally.answers["redis"] = 7
		tally.stood("cart", time.Second)
		test.change(tally)
		err := tally.verdict(2 * time.Second)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
