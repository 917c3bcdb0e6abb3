package plugin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// scheduler is as much of a scheduler as the plugin uses.
type scheduler struct {
	framework.Handle
	framework.SharedLister
	framework.NodeInfoLister

	store  toolscache.Indexer
	nodes  map[string]*nodeInfo
	events *events.FakeRecorder

	mu        sync.Mutex
	activated map[string]int
}

func (s *scheduler) Activate(_ klog.Logger, pods map[string]*corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range pods {
		s.activated[name]++
	}
}

// takeActivated returns how often pods were activated since it was called last.
func (s *scheduler) takeActivated() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.activated
	s.activated = map[string]int{}
	return taken
}

func (s *scheduler) EventRecorder() events.EventRecorder          { return s.events }
func (s *scheduler) SnapshotSharedLister() framework.SharedLister { return s }
func (s *scheduler) NodeInfos() framework.NodeInfoLister          { return s }
func (s *scheduler) Get(name string) (framework.NodeInfo, error) {
	if info := s.nodes[name]; info != nil {
		return info, nil
	}
	return nil, fmt.Errorf("no node %s", name)
}

// against is a plugin in a scheduler, both empty, whose API server is the handler.
func against(t *testing.T, handler http.HandlerFunc) (*Lifeboat, *scheduler) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := newClient(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	args, err := ParseArgs(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &scheduler{
		store: toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{toolscache.NamespaceIndex: toolscache.MetaNamespaceIndexFunc}),
		nodes: map[string]*nodeInfo{}, events: events.NewFakeRecorder(100), activated: map[string]int{},
	}
	p := &Lifeboat{
		handle: s, pods: corelisters.NewPodLister(s.store), args: args, model: args.model(), client: c,
		watches: watches{fencesTold: func() bool { return true }},
		records: newRecords(), claims: newClaims(), room: newRoom(), waiting: newWaiting(),
	}
	p.reads = newReads(t.Context(), p.read, p.readDone)
	return p, s
}

// unreachable is an API server that nobody may ask.
func unreachable(t *testing.T) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) { t.Errorf("unexpected %s %s", r.Method, r.URL) }
}

// addPod makes a pod wait in the scheduler.
func (s *scheduler) addPod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if err := s.store.Add(pod); err != nil {
		t.Fatal(err)
	}
}

// event returns the next event that was recorded, "" when there is none.
func (s *scheduler) event() string {
	select {
	case event := <-s.events.Events:
		return event
	default:
		return ""
	}
}

// cycle is the state of one scheduling cycle.
type cycle struct {
	framework.CycleState
	data map[framework.StateKey]framework.StateData
}

func newCycle() *cycle { return &cycle{data: map[framework.StateKey]framework.StateData{}} }

func (c *cycle) Read(key framework.StateKey) (framework.StateData, error) {
	if data, ok := c.data[key]; ok {
		return data, nil
	}
	return nil, framework.ErrNotFound
}

func (c *cycle) Write(key framework.StateKey, data framework.StateData) { c.data[key] = data }

// nodeInfo is a node with the memory that its pods leave.
type nodeInfo struct {
	framework.NodeInfo
	node                   *corev1.Node
	allocatable, requested memory
	images                 map[string]*framework.ImageStateSummary
}

type memory struct {
	framework.Resource
	bytes int64
}

func (m *memory) GetMemory() int64 { return m.bytes }

func (n *nodeInfo) Node() *corev1.Node                                      { return n.node }
func (n *nodeInfo) GetAllocatable() framework.Resource                      { return &n.allocatable }
func (n *nodeInfo) GetRequested() framework.Resource                        { return &n.requested }
func (n *nodeInfo) GetImageStates() map[string]*framework.ImageStateSummary { return n.images }

func nodeNamed(name string, change ...func(*nodeInfo)) *nodeInfo {
	n := &nodeInfo{node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}}
	for _, c := range change {
		c(n)
	}
	return n
}

// fence is a Fence with the facts of a node that can restore everything.
func fence(name, version string, state v1alpha1.FenceState, change ...func(*v1alpha1.Fence)) *v1alpha1.Fence {
	f := &v1alpha1.Fence{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Fence"},
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid-of-fence", ResourceVersion: version},
		Spec:       v1alpha1.FenceSpec{State: state},
		Status: v1alpha1.FenceStatus{Facts: v1alpha1.NodeFacts{
			Architecture: "amd64", KernelVersion: "6.12.1", CRIUVersion: "4.2.1",
		}},
	}
	for _, c := range change {
		c(f)
	}
	return f
}

// unknown is what the scheduler passes for arguments of a kind that it does not know.
func unknown(t *testing.T, text string) runtime.Object {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &runtime.Unknown{Raw: raw, ContentType: runtime.ContentTypeJSON}
}
