package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// planned is a planned move of pod "cart-x", with UID "old", from node "here" to pod
// "cart-y", with UID "successor", on node "there". It has reached the given phases.
func planned(strategy v1alpha1.Strategy, phases ...v1alpha1.Phase) *v1alpha1.Migration {
	m := &v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-x-2", UID: "m"},
		Spec: v1alpha1.MigrationSpec{
			Pod: v1alpha1.PodIdentity{Name: "cart-x", UID: "old"}, SourceNode: "here", Strategy: strategy, Epoch: 2,
		},
		Status: v1alpha1.MigrationStatus{Claim: &v1alpha1.Claim{PodName: "cart-y", PodUID: "successor", NodeName: "there"}},
	}
	for _, phase := range phases {
		m.Status.Phases = append(m.Status.Phases, v1alpha1.PhaseTime{Phase: phase})
	}
	return m
}

func with(m *v1alpha1.Migration, change func(*v1alpha1.Migration)) *v1alpha1.Migration {
	change(m)
	return m
}

func stopped(m *v1alpha1.Migration) { // by its source
	now := metav1.NewMicroTime(time.Now())
	m.Status.Source = &v1alpha1.SourceStatus{StoppedAt: &now, Checkpoint: &v1alpha1.HeldCheckpoint{Generation: 7}}
}

func failedToStop(m *v1alpha1.Migration) {
	m.Status.Source = &v1alpha1.SourceStatus{Error: "no"}
}

func released(m *v1alpha1.Migration) {
	m.Annotations = map[string]string{v1alpha1.AnnotationPodLabels: "{}"}
}

func givenUp(m *v1alpha1.Migration)  { m.Status.Reason = v1alpha1.ReasonCanceled }
func withdrew(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultWithdrawn }

const (
	accepted = v1alpha1.PhaseAccepted
	stopping = v1alpha1.PhaseStopping
	deleted  = v1alpha1.PhaseDeleted
	ready    = v1alpha1.PhaseReady
	fenced   = v1alpha1.PhaseFenced
)

// TestPartOf: a node does its part when it is due, and not once more.
func TestPartOf(t *testing.T) {
	begun, committed := &stopNote{}, &stopNote{Committed: true}
	quiet := func(m *v1alpha1.Migration) {
		m.Status.Source = &v1alpha1.SourceStatus{Hooks: []v1alpha1.HookResult{{Name: hookPreCheckpoint, Succeeded: true}}}
	}
	live, cold, application, replace := v1alpha1.StrategyLive, v1alpha1.StrategyCold, v1alpha1.StrategyApplication, v1alpha1.StrategyReplace
	for name, tc := range map[string]struct {
		m    *v1alpha1.Migration
		note *stopNote
		node string // "here" where empty
		want part
	}{
		"not accepted yet":                   {m: planned(live), want: partNone},
		"accepted":                           {m: planned(live, accepted), want: partPrepare},
		"accepted, another node's":           {m: planned(live, accepted), node: "there", want: partNone},
		"cold is not prepared":               {m: planned(cold, accepted), want: partNone},
		"to be stopped":                      {m: planned(cold, accepted, stopping), want: partStop},
		"to be stopped elsewhere":            {m: planned(cold, accepted, stopping), node: "there", want: partNone},
		"being given up":                     {m: with(planned(live, accepted), givenUp), want: partNone},
		"could not be stopped":               {m: with(planned(live, accepted, stopping), failedToStop), note: begun, want: partNone},
		"was stopped":                        {m: with(planned(live, accepted, stopping), stopped), note: committed, want: partNone},
		"restarted before the kill":          {m: planned(live, accepted, stopping), note: begun, want: partGiveUp},
		"restarted in the kill":              {m: planned(live, accepted, stopping), note: committed, want: partKill},
		"restarted in the kill, then fenced": {m: planned(live, accepted, stopping, fenced), note: committed, want: partKill},
		"fenced meanwhile":                   {m: planned(live, accepted, stopping, fenced), want: partNone},
		"closed meanwhile":                   {m: with(planned(live, accepted, stopping), withdrew), note: begun, want: partNone},
		"the source does nothing to replace": {m: planned(replace, accepted, stopping), want: partNone},
		"nor for an application beside it":   {m: with(planned(application, accepted, ready, stopping), released), want: partNone},
		"an application is to be stopped":    {m: planned(application, accepted, stopping), want: partStop},
		"restarted before its kill":          {m: planned(application, accepted, stopping), note: begun, want: partGiveUp},
		"restarted in its kill":              {m: planned(application, accepted, stopping), note: committed, want: partKill},
		"its kill, and then fenced":          {m: planned(application, accepted, stopping, fenced), note: committed, want: partKill},
		"it was stopped":                     {m: with(planned(application, accepted, stopping), stopped), note: committed, want: partNone},
		"its state waits for the old pod":    {m: with(planned(application, accepted, stopping), stopped), node: "there", want: partNone},
		"its state is to be imported":        {m: with(planned(application, accepted, stopping, deleted), stopped), node: "there", want: partImport},
		"it goes back to its own node": {m: with(with(planned(application, accepted, stopping, deleted), stopped), func(m *v1alpha1.Migration) {
			m.Status.Claim.NodeName = "here"
		}), want: partImport},
		"its state is elsewhere": {m: with(planned(application, accepted, stopping, deleted), stopped), want: partNone},
		"an import has failed": {m: with(with(planned(application, accepted, stopping, deleted), stopped), func(m *v1alpha1.Migration) {
			m.Status.Restore = &v1alpha1.RestoreStatus{PodUID: "successor", Attempts: 2, Hooks: []v1alpha1.HookResult{{}}}
		}), node: "there", want: partImport},
		"its state is imported": {m: with(with(planned(application, accepted, stopping, deleted), stopped), func(m *v1alpha1.Migration) {
			m.Status.Restore = &v1alpha1.RestoreStatus{PodUID: "successor", CommittedAt: &metav1.MicroTime{}}
		}), node: "there", want: partNone},
		"the application's new pod starts":   {m: planned(application, accepted), node: "there", want: partNone},
		"it is ready":                        {m: planned(application, accepted, ready), node: "there", want: partImport},
		"it is ready, and the move given up": {m: with(planned(application, accepted, ready), givenUp), node: "there", want: partNone},
		"it has the state": {m: with(planned(application, accepted, ready), func(m *v1alpha1.Migration) {
			m.Status.Restore = &v1alpha1.RestoreStatus{Hooks: []v1alpha1.HookResult{{}}}
		}), node: "there", want: partNone},
		"the old one stays, and is held":     {m: with(with(planned(application, accepted, ready), quiet), withdrew), want: partResume},
		"the old one is held for the export": {m: with(planned(application, accepted, ready), quiet), want: partNone},
		"the old one is gone":                {m: with(with(planned(application, accepted, ready, deleted), quiet), withdrew), want: partNone},
		"a failover":                         {m: planned(v1alpha1.StrategyFailover, fenced, deleted), want: partNone},
	} {
		t.Run(name, func(t *testing.T) {
			node := tc.node
			if node == "" {
				node = "here"
			}
			if got := partOf(tc.m, node, tc.note); got != tc.want {
				t.Errorf("the part is %d, want %d", got, tc.want)
			}
		})
	}
}

// TestPrepared: generations are taken until the next one will not be much smaller.
func TestPrepared(t *testing.T) {
	const mb = 1 << 20
	for name, tc := range map[string]struct {
		added []int64
		want  bool
	}{
		"nothing yet":            {nil, false},
		"much, the first time":   {[]int64{500 * mb}, false},
		"little":                 {[]int64{mb}, true},
		"less and less":          {[]int64{500 * mb, 100 * mb}, false},
		"as much as before":      {[]int64{500 * mb, 500 * mb}, true},
		"less, but often enough": {[]int64{500 * mb, 100 * mb, 50 * mb}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := prepared(tc.added); got != tc.want {
				t.Errorf("prepared is %t", got)
			}
		})
	}
}

// TestOfAPodThatMoves: what may be done with the old pod, and with the one that takes
// its place, at each step of a planned move.
func TestOfAPodThatMoves(t *testing.T) {
	live, cold := v1alpha1.StrategyLive, v1alpha1.StrategyCold
	for name, tc := range map[string]struct {
		m *v1alpha1.Migration
		// Of the old pod: must not be created on its node; must not be copied.
		moving, moved bool
		// Of its successor: it waits, must not be restored, must not be created at all.
		parks, mayNot, withdrawn bool
	}{
		"accepted":                            {m: planned(cold, accepted), mayNot: true},
		"released":                            {m: with(planned(live, accepted), released), parks: true, mayNot: true},
		"released, not accepted":              {m: with(planned(live), released), mayNot: true},
		"to be stopped":                       {m: with(planned(live, accepted, stopping), released), moving: true, parks: true, mayNot: true},
		"not released":                        {m: planned(live, accepted, stopping), moving: true, mayNot: true},
		"cannot be stopped":                   {m: with(with(planned(live, accepted, stopping), released), failedToStop), parks: true, mayNot: true},
		"being given up":                      {m: with(with(planned(live, accepted), released), givenUp), mayNot: true},
		"withdrawn":                           {m: with(with(planned(live, accepted), released), withdrew), mayNot: true, withdrawn: true},
		"stopped, its successor waits":        {m: with(with(planned(live, accepted, stopping), released), stopped), moving: true},
		"stopped, and not deleted yet":        {m: with(planned(cold, accepted, stopping), stopped), moving: true, mayNot: true},
		"stopped and deleted":                 {m: with(planned(cold, accepted, stopping, deleted), stopped), moving: true},
		"stopped, and its node was lost":      {m: with(planned(cold, accepted, stopping, fenced, deleted), stopped), moving: true},
		"moved":                               {m: with(with(planned(cold, accepted, stopping, deleted), stopped), func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultRestored }), moved: true},
		"its node was lost before it stopped": {m: with(planned(cold, accepted, stopping, fenced), func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultFailed }), mayNot: true, withdrawn: true},
		"an application's state is staged":    {m: with(planned(v1alpha1.StrategyApplication, accepted, stopping, deleted), stopped), moving: true},
		"and its old pod is not gone":         {m: with(planned(v1alpha1.StrategyApplication, accepted, stopping), stopped), moving: true, mayNot: true},
		"replaced":                            {m: planned(v1alpha1.StrategyReplace, accepted, stopping, deleted), moving: true, moved: true, mayNot: true},
	} {
		t.Run(name, func(t *testing.T) {
			list := []v1alpha1.Migration{*tc.m}
			if why := moving(list, "old"); (why != "") != tc.moving {
				t.Errorf("moving says %q", why)
			}
			if got := moved(list, "old"); got != tc.moved {
				t.Errorf("moved is %t", got)
			}
			if got := parks(tc.m); got != tc.parks {
				t.Errorf("parks is %t", got)
			}
			if why := mayNotRestore(tc.m, list, nil); (why != "") != tc.mayNot {
				t.Errorf("mayNotRestore says %q", why)
			}
			if why := withdrawn(list, "successor"); (why != "") != tc.withdrawn {
				t.Errorf("withdrawn says %q", why)
			}
		})
	}
}

// parking is a container that waits on node "there", in a world that changes.
type parking struct {
	*world
	t       *testing.T
	m       *v1alpha1.Migration
	pod     *corev1.Pod
	cache   ctrlclient.Client
	gone    chan struct{}
	refused string
	got     *v1alpha1.Migration
	ended   chan struct{}
}

var waiting = client.Container{Namespace: "shop", PodName: "cart-y", PodUID: "successor", Name: "main"}

func park(t *testing.T) *parking {
	pod := podOn("there")
	pod.Name = "cart-y"
	m := with(planned(v1alpha1.StrategyLive, accepted), released)
	p := &parking{t: t, m: m, pod: pod, gone: make(chan struct{}), ended: make(chan struct{})}
	p.world = newWorld(t, []ctrlclient.Object{m.DeepCopy(), pod.DeepCopy()}, m.DeepCopy(), pod.DeepCopy())
	p.cfg.NodeName = "there"
	p.cache = p.world.Agent.cache.(cached).objects.(ctrlclient.Client)
	if err := p.confirmed.add("successor", 3); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.got, p.refused = p.park(context.Background(), p.restore(), m, pod, client.CreateRequest{Container: waiting}, p.gone)
	}()
	return p
}

func (p *parking) restore() *restore {
	p.restores = map[string]*restore{}
	return p.restoreOf("successor", p.m, 1)
}

// change changes the Migration in the API, and in the cache unless it lags.
func (p *parking) change(lags bool, change func(*v1alpha1.Migration)) {
	p.t.Helper()
	for i, c := range []ctrlclient.Client{p.api, p.cache} {
		// The agent may report at the same moment.
		atOnce := wait.Backoff{Steps: 100}
		err := retry.RetryOnConflict(atOnce, func() error {
			m := &v1alpha1.Migration{}
			if err := c.Get(context.Background(), ctrlclient.ObjectKeyFromObject(p.m), m); err != nil {
				return err
			}
			change(m)
			if i == 0 { // there the status is written apart
				return c.Status().Update(context.Background(), m)
			}
			return c.Update(context.Background(), m)
		})
		if err != nil {
			p.t.Fatal(err)
		}
		if lags {
			return
		}
	}
	p.changes.tell()
	synctest.Wait() // until it is taken up: it may write to the same Migration
}

func (p *parking) reported() *v1alpha1.RestoreStatus {
	p.t.Helper()
	m := &v1alpha1.Migration{}
	if err := p.api.Get(context.Background(), ctrlclient.ObjectKeyFromObject(p.m), m); err != nil {
		p.t.Fatal(err)
	}
	return m.Status.Restore
}

// TestPark: a container that waits is told as soon as its source has stopped, and goes
// away when nothing comes of it.
func TestPark(t *testing.T) {
	for name, tc := range map[string]struct {
		happens func(p *parking)
		within  time.Duration
		goesOn  bool
	}{
		"the source stops": {happens: func(p *parking) { p.change(false, stopped) }, goesOn: true},
		"the source stops, told late": {happens: func(p *parking) {
			p.change(true, stopped)
			p.change(false, func(*v1alpha1.Migration) {})
			p.change(false, stopped)
		}, goesOn: true},
		"the source cannot stop": {happens: func(p *parking) { p.change(false, failedToStop) }},
		"the move is given up":   {happens: func(p *parking) { p.change(false, givenUp) }},
		"the move is withdrawn":  {happens: func(p *parking) { p.change(false, withdrew) }},
		"the cache says more than the API": {happens: func(p *parking) { // a claim that was taken back meanwhile
			p.change(true, func(m *v1alpha1.Migration) { m.Status.Claim = nil })
			p.change(false, stopped)
		}},
		"the pod is deleted":   {happens: func(p *parking) { _ = p.cache.Delete(context.Background(), p.pod) }, within: lookAgainEvery},
		"the runtime has gone": {happens: func(p *parking) { close(p.gone) }},
		"nothing happens":      {happens: func(*parking) {}, within: parkTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := park(t)
				synctest.Wait()
				if r := p.reported(); r == nil || r.ParkedAt == nil || r.PodUID != "successor" {
					t.Fatalf("it has not told that it waits: %+v", r)
				}
				if p.confirmed.has("successor", 3) {
					t.Error("without the checkpointer it would start by itself")
				}
				began := time.Now()
				tc.happens(p)
				<-p.ended
				if took := time.Since(began); took > tc.within {
					t.Errorf("it took %s", took)
				}
				if (p.got != nil) != tc.goesOn || (p.refused == "") != tc.goesOn {
					t.Errorf("it goes on with %v, refused: %q", p.got, p.refused)
				}
			})
		})
	}
}

// TestSearches: the state of the moment is looked for first, and older ones never meet
// a newer volume.
func TestSearches(t *testing.T) {
	volume := &corev1.Pod{Spec: corev1.PodSpec{
		Volumes:    []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}}},
		Containers: []corev1.Container{{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "data"}}}},
	}}
	failover := planned(v1alpha1.StrategyFailover, fenced, deleted)
	move := with(planned(v1alpha1.StrategyCold, accepted, stopping, deleted), stopped)
	lost := planned(v1alpha1.StrategyCold, accepted, stopping, fenced, deleted)
	for name, tc := range map[string]struct {
		m    *v1alpha1.Migration
		pod  *corev1.Pod
		want int // how many searches
		ends bool
	}{
		"failover":                              {failover, &corev1.Pod{}, 1, true},
		"failover, not known which pod":         {failover, nil, 1, true},
		"failover, with a volume":               {failover, volume, 0, false},
		"move":                                  {move, &corev1.Pod{}, lastTries + 2, true},
		"move, with a volume":                   {move, volume, lastTries + 1, false},
		"move whose source was lost in between": {lost, &corev1.Pod{}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			found := w.searches(&restore{migration: tc.m, key: store.Key{Namespace: "shop", PodUID: "old"}}, tc.pod)
			if len(found) != tc.want {
				t.Fatalf("%d searches, want %d", len(found), tc.want)
			}
			if ends := len(found) > 0 && found[len(found)-1].again == 0; ends != tc.ends {
				t.Errorf("older generations are looked for at the end: %t", ends)
			}
		})
	}
}
