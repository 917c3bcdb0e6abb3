package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// metrics are the figures of the checkpointer. Labels are bounded by what runs
// on the node; a pod's series end with the pod.
type metrics struct {
	agent                                    *Agent
	checkpoints                              *prometheus.CounterVec
	failures                                 *prometheus.CounterVec
	restores                                 *prometheus.CounterVec
	refused, movedAway                       *prometheus.CounterVec
	pause                                    *prometheus.HistogramVec
	newBytes                                 *prometheus.CounterVec
	readBytes                                *prometheus.CounterVec
	verifiedBytes, wrongGenerations, damaged *prometheus.CounterVec
	faults                                   *prometheus.CounterVec
	filledBytes                              *prometheus.CounterVec
	age, size                                *prometheus.Desc
}

func newMetrics(a *Agent) *metrics {
	return &metrics{
		agent: a,
		checkpoints: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_checkpoints_total", Help: "Checkpoints that became durable.",
		}, []string{"namespace"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_checkpoint_failures_total", Help: "Checkpoints that failed, by reason.",
		}, []string{"namespace", "reason"}),
		restores: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_container_restores_total", Help: "Restores of containers on this node, by result and reason.",
		}, []string{"namespace", "result", "reason"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_container_refusals_total", Help: "Containers that were not created because their pod may run elsewhere, or is not sure not to.",
		}, []string{"namespace"}),
		movedAway: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_checkpoint_moved_pods_total", Help: "Pods on this node that are not checkpointed any more because they were moved away.",
		}, []string{"namespace"}),
		pause: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lifeboat_checkpoint_pause_seconds", Help: "How long a checkpoint kept a pod's processes stopped.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 12),
		}, []string{"namespace"}),
		newBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_checkpoint_stored_bytes_total", Help: "Bytes that checkpoints added to the store, after deduplication and compression.",
		}, []string{"namespace"}),
		readBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_checkpoint_memory_read_bytes_total", Help: "Bytes of memory that checkpoints read: what was written since the one before, where that is known.",
		}, []string{"namespace"}),
		verifiedBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_checkpoint_verified_bytes_total", Help: "Bytes of memory of running pods that were compared with their newest generation.",
		}, []string{"namespace"}),
		wrongGenerations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_checkpoint_wrong_total", Help: "Generations that turned out to differ from the memory that they were taken of.",
		}, []string{"namespace"}),
		damaged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_store_damaged_total", Help: "Stored generations that were found damaged when they were read back.",
		}, []string{"namespace"}),
		faults: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_restore_faults_total", Help: "Pages of restored containers that were waited for because they were not filled in yet.",
		}, []string{"namespace"}),
		filledBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lifeboat_restore_filled_bytes_total", Help: "Bytes of memory of restored containers that were filled in, on demand or ahead of it.",
		}, []string{"namespace", "cause"}),
		age: prometheus.NewDesc("lifeboat_checkpoint_age_seconds",
			"Age of a protected pod's newest durable generation.", []string{"namespace", "pod"}, nil),
		size: prometheus.NewDesc("lifeboat_checkpoint_size_bytes",
			"Size of the state that a protected pod's newest durable generation captured.", []string{"namespace", "pod"}, nil),
	}
}

// observe counts a checkpoint that became durable.
func (m *metrics) observe(pod *corev1.Pod, g store.Generation, pause time.Duration) {
	m.checkpoints.WithLabelValues(pod.Namespace).Inc()
	m.pause.WithLabelValues(pod.Namespace).Observe(pause.Seconds())
	m.newBytes.WithLabelValues(pod.Namespace).Add(float64(g.NewBytes))
}

// dumped counts what a checkpoint read.
func (m *metrics) dumped(pod *corev1.Pod, dump *criu.Dump) {
	for _, c := range dump.Containers {
		m.readBytes.WithLabelValues(pod.Namespace).Add(float64(c.FreshBytes))
	}
}

// filled counts the pages of a restored container.
func (m *metrics) filled(namespace string, stats pages.Stats) {
	m.faults.WithLabelValues(namespace).Add(float64(stats.Faults))
	m.filledBytes.WithLabelValues(namespace, "fault").Add(float64(stats.FaultBytes))
	m.filledBytes.WithLabelValues(namespace, "drain").Add(float64(stats.DrainedBytes))
}

func (m *metrics) parts() []prometheus.Collector {
	return []prometheus.Collector{m.checkpoints, m.failures, m.restores, m.refused, m.movedAway, m.pause, m.newBytes, m.readBytes, m.verifiedBytes, m.wrongGenerations, m.damaged, m.faults, m.filledBytes}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, part := range m.parts() {
		part.Describe(out)
	}
	out <- m.age
	out <- m.size
}

// Collect implements prometheus.Collector. The age is computed when it is asked for.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	for _, part := range m.parts() {
		part.Collect(out)
	}
	m.agent.mu.Lock()
	defer m.agent.mu.Unlock()
	for _, state := range m.agent.pods {
		newest := state.summary.newest.Load()
		if newest == nil {
			continue
		}
		out <- prometheus.MustNewConstMetric(m.age, prometheus.GaugeValue, time.Since(newest.TakenAt).Seconds(), state.pod.Namespace, state.pod.Name)
		out <- prometheus.MustNewConstMetric(m.size, prometheus.GaugeValue, float64(newest.Bytes), state.pod.Namespace, state.pod.Name)
	}
}
