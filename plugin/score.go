package plugin

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kube-scheduler/framework"
)

// namedTimes is how many other nodes the event of a claim names.
const namedTimes = 3

const predictionKey framework.StateKey = Name + "Predictions"

// predictions are the predicted times of the nodes that could take the restore.
type predictions struct {
	times []nodeTime // the shortest first, no more than named
	nodes int        // how many nodes there are, and
	able  int        // how many of those that were tried could take it
	// narrowed says that not all were tried.
	narrowed bool
}

type nodeTime struct {
	name string
	time time.Duration
}

// Clone is what the scheduler's copies of its state hold.
func (ps *predictions) Clone() framework.StateData { return ps }

// pressures are the node conditions that each cost Model.Pressure.
var pressures = []corev1.NodeConditionType{
	corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// PreScore leaves the choice of a node to the other plugins where there is no
// checkpoint to restore.
func (p *Lifeboat) PreScore(_ context.Context, state framework.CycleState, _ *corev1.Pod, _ []framework.NodeInfo) *framework.Status {
	if pl := placementOf(state); pl == nil || !pl.restores() {
		return framework.NewStatus(framework.Skip)
	}
	return nil
}

// Score returns the predicted time of the restore in microseconds. NormalizeScore
// turns it into a score.
func (p *Lifeboat) Score(_ context.Context, state framework.CycleState, _ *corev1.Pod, info framework.NodeInfo) (int64, *framework.Status) {
	pl := placementOf(state)
	if pl == nil || !pl.restores() {
		return 0, nil
	}
	return p.predict(pl, info).Microseconds(), nil
}

func (p *Lifeboat) predict(pl *placement, info framework.NodeInfo) time.Duration {
	object := info.Node()
	site := Site{
		Holder:        pl.holds(object.Name),
		MissingImages: missing(pl.images, info),
		SameDomain:    pl.domain != "" && object.Labels[*p.args.DomainLabel] == pl.domain,
	}
	if known := p.records.node(object.Name); known != nil {
		site.Load, site.Restores = known.fence.Status.Load, known.fence.Status.Restores
	}
	for i := range object.Status.Conditions {
		c := &object.Status.Conditions[i]
		if c.Status == corev1.ConditionTrue && slices.Contains(pressures, c.Type) {
			site.Pressures++
		}
	}
	return p.model.Predict(pl.bytes(), &site, pl.at)
}

// ScoreExtensions returns the plugin: NormalizeScore needs all nodes' times.
func (p *Lifeboat) ScoreExtensions() framework.ScoreExtensions { return p }

// NormalizeScore gives the fastest node 100, and another one the less the longer
// it takes: half as much when it takes twice as long.
func (p *Lifeboat) NormalizeScore(_ context.Context, state framework.CycleState, _ *corev1.Pod, scores framework.NodeScoreList) *framework.Status {
	if pl := placementOf(state); pl != nil {
		ps := predicted(scores, pl.nodes)
		ps.narrowed = pl.narrowed
		state.Write(predictionKey, ps)
	}
	normalize(scores)
	return nil
}

func normalize(scores framework.NodeScoreList) {
	fastest := int64(math.MaxInt64)
	for i := range scores {
		scores[i].Score = max(scores[i].Score, 1)
		fastest = min(fastest, scores[i].Score)
	}
	for i := range scores {
		scores[i].Score = int64(math.Round(float64(framework.MaxNodeScore) * float64(fastest) / float64(scores[i].Score)))
	}
}

// predicted keeps the shortest of the times, one more than an event names.
func predicted(times framework.NodeScoreList, nodes int) *predictions {
	ps := &predictions{nodes: nodes, able: len(times), times: make([]nodeTime, 0, namedTimes+2)}
	for i := range times {
		t := nodeTime{times[i].Name, time.Duration(times[i].Score) * time.Microsecond}
		at, _ := slices.BinarySearchFunc(ps.times, t, func(a, b nodeTime) int {
			if a.time != b.time {
				return int(min(max(a.time-b.time, -1), 1))
			}
			return strings.Compare(a.name, b.name)
		})
		if at <= namedTimes {
			ps.times = slices.Insert(ps.times, at, t)
			ps.times = ps.times[:min(len(ps.times), namedTimes+1)]
		}
	}
	return ps
}

// sentence says how long the restore is expected to take on the chosen node, and
// on others, as " in about 0.8s; node-c would take 1.1s; 2 of 5 nodes could not
// take it".
func (ps *predictions) sentence(chosen string) string {
	var text strings.Builder
	named := 0
	if at := slices.IndexFunc(ps.times, func(t nodeTime) bool { return t.name == chosen }); at >= 0 {
		fmt.Fprintf(&text, " in about %s", roughly(ps.times[at].time))
	}
	for _, t := range ps.times {
		if t.name == chosen || named == namedTimes {
			continue
		}
		separator := "; node "
		if named > 0 {
			separator = ", node "
		}
		fmt.Fprintf(&text, "%s%s would take %s", separator, t.name, roughly(t.time))
		named++
	}
	if more := ps.able - 1 - named; more > 0 {
		fmt.Fprintf(&text, ", %d more no less", more)
	}
	if unable := ps.nodes - ps.able; unable > 0 && !ps.narrowed {
		fmt.Fprintf(&text, "; %d of %d nodes could not take it", unable, ps.nodes)
	}
	return text.String()
}

// roughly rounds a predicted time to what it is worth.
func roughly(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
