package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/bucket"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/hooks"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
	"github.com/lifeboat-dev/lifeboat/identity"
)

// Config is what a checkpointer must be told.
type Config struct {
	// NodeName and NodeIP are the node's name and the address that other nodes reach it at.
	NodeName, NodeIP string
	// Namespace is where Lifeboat's Secrets are.
	Namespace string
	// StoreDir is the folder of the store, on the node's disk.
	StoreDir string
	// StoreBytes bounds the store's size; 0 means a fifth of its file system.
	StoreBytes int64
	// CopyBytes bounds the bytes of checkpoints that the node sends in a second; 0
	// means no bound. Restores are not bounded.
	CopyBytes int64
	// Bucket is an S3 bucket that holds copies beside the nodes; nil for none.
	Bucket *bucket.Config
	// RuntimeSocket is the CRI socket.
	RuntimeSocket string
	// PeerPort, MemberPort and MetricsPort are the ports of the peer protocol,
	// of the membership and of the metrics.
	PeerPort, MemberPort, MetricsPort int
	// Retain is which generations of a pod are kept.
	Retain store.Retention
}

// Agent is the checkpointer of one node.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	api      ctrlclient.Client
	cache    cache.Cache
	recorder record.EventRecorder
	host     criu.Host
	engine   *criu.Engine
	runtime  *containers
	store    *store.Store
	peers    *transfer.Client
	bucket   *bucketHolder // nil without one
	metrics  *metrics
	// confirmed are the pods that the API said are this node's.
	confirmed *confirmations
	facts     v1alpha1.NodeFacts
	history   *history
	// stops are the pods of this node that are stopped for good.
	stops *stops
	hooks hooks.Caller
	// copies bounds how fast copies are sent; nil for no bound.
	copies *transfer.Limiter
	// connections are those that are held for pods that wait here.
	connections connections
	// changes tells that a Migration has changed.
	changes changes
	// drafts are the files of pods that may be restored here soon.
	drafts drafts

	// dumping is held while a pod is paused: one pod of a node at a time.
	dumping sync.Mutex

	mu        sync.Mutex
	schedule  *schedule
	pods      map[string]*podState // by pod UID
	movedPods map[string]bool      // by UID: on the node still, and not checkpointed any more
	restores  map[string]*restore  // by pod UID
	moves     map[types.UID]*move  // planned moves that this node has a part in, by the Migration's UID
}

// Run runs the checkpointer until ctx ends. It returns an error when it cannot
// be set up, or when a part of it that must not end ends.
func Run(ctx context.Context, cfg Config, kube *rest.Config, log *slog.Logger) error {
	a := &Agent{
		cfg: cfg, log: log.With("node", cfg.NodeName),
		host:      criu.Host{ProcRoot: "/proc", Root: "/proc/1/root", EnterMountNS: true},
		schedule:  newSchedule(),
		pods:      map[string]*podState{},
		movedPods: map[string]bool{},
		restores:  map[string]*restore{},
		moves:     map[types.UID]*move{},
		history:   newHistory(),
	}
	a.hooks = hooks.Caller{Host: a.host, Folder: filepath.Join(client.Folder, "hooks")}
	clientset, err := kubernetes.NewForConfig(kube)
	if err != nil {
		return fmt.Errorf("make the API client: %w", err)
	}
	authority, err := identity.Ensure(ctx, clientset, cfg.Namespace)
	if err != nil {
		return fmt.Errorf("get Lifeboat's identity: %w", err)
	}
	if err := a.connectAPI(kube, clientset); err != nil {
		return err
	}
	tracking, err := track.Probe()
	if err != nil {
		return fmt.Errorf("find a way to follow what processes write: %w", err)
	}
	a.engine = criu.NewEngine(a.host, criu.Options{Tracking: tracking}, a.log)
	if a.runtime, err = dialRuntime(cfg.RuntimeSocket); err != nil {
		return err
	}
	if cfg.StoreBytes == 0 {
		if cfg.StoreBytes, err = shareOfDisk(cfg.StoreDir); err != nil {
			return err
		}
	}
	a.store, err = store.Open(cfg.StoreDir, identity.NewNamespaceKeys(clientset, cfg.Namespace), store.Options{MaxBytes: cfg.StoreBytes})
	if err != nil {
		return fmt.Errorf("open the store %s: %w", cfg.StoreDir, err)
	}
	clientTLS, err := authority.ClientTLS(cfg.NodeName)
	if err != nil {
		return fmt.Errorf("make the peer certificate: %w", err)
	}
	limiter, err := transfer.NewLimiter(cfg.CopyBytes)
	if err != nil {
		return fmt.Errorf("bound the rate of copies: %w", err)
	}
	a.copies = limiter
	a.peers = transfer.NewClient(a.store, clientTLS, transfer.WithLimiter(limiter))
	defer a.peers.Close()
	if cfg.Bucket != nil {
		if a.bucket, err = newBucketHolder(*cfg.Bucket, a.store, limiter, a.log); err != nil {
			return err
		}
	}
	a.metrics = newMetrics(a)
	if a.confirmed, err = openConfirmations(client.ConfirmedPath); err != nil {
		a.log.Warn("containers cannot start again while the API is down", "err", err)
	}
	if a.stops, err = openStops(filepath.Join(cfg.StoreDir, stopsFolder)); err != nil {
		return err
	}
	kept := a.keptRestores()
	if err := a.clearLeftovers(ctx, kept); err != nil {
		return err
	}
	a.killCommitted(ctx)
	a.resumeFillings(ctx, kept)
	if err := a.thawLeftovers(ctx); err != nil {
		return err
	}
	a.speakAgain(ctx)

	told := ctx // ends when the checkpointer is told to end, and not when a part of it fails
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ended(ctx, "API cache", a.cache.Start(ctx)) })
	if !a.cache.WaitForCacheSync(ctx) {
		return errors.Join(errors.New("API cache did not fill"), group.Wait())
	}
	serverTLS, err := authority.ServerTLS(cfg.NodeName)
	if err != nil {
		return fmt.Errorf("make the peer certificate: %w", err)
	}
	peerServer := grpc.NewServer(append(transfer.ServerOptions(), grpc.Creds(credentials.NewTLS(serverTLS)))...)
	peerv1.RegisterPeerServer(peerServer, transfer.NewServer(a.store, transfer.RefuseMoved(a.isMoved), transfer.WithExport(a.export)))
	group.Go(func() error { return serveGRPC(ctx, peerServer, cfg.PeerPort) })
	group.Go(func() error { return a.serveRuntime(ctx, client.SocketPath) })
	group.Go(func() error { return a.serveMetrics(ctx) })
	group.Go(func() error { return a.joinMembers(ctx, authority) })
	group.Go(func() error { return a.publishFacts(ctx) })
	group.Go(func() error { return a.publishHistory(ctx) })
	group.Go(func() error { return a.publishLoad(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		if told.Err() != nil {
			a.reportShutdown()
		}
		return nil
	})
	group.Go(func() error { return a.runSchedule(ctx) })
	group.Go(func() error { return a.runMoves(ctx) })
	group.Go(func() error { return a.runDrafts(ctx) })
	group.Go(func() error { return a.runLoans(ctx) })
	group.Go(func() error { return a.runGuests(ctx) })
	group.Go(func() error { return a.runCollection(ctx) })
	group.Go(func() error { return a.runScrub(ctx) })
	a.log.Info("checkpointer runs", "store", cfg.StoreDir, "tracking", tracking)
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// connectAPI makes the cached client. The cache holds this node's pods alone.
func (a *Agent) connectAPI(kube *rest.Config, clientset kubernetes.Interface) error {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return fmt.Errorf("make the API scheme: %w", err)
		}
	}
	var err error
	a.cache, err = cache.New(kube, cache.Options{Scheme: scheme, ByObject: map[ctrlclient.Object]cache.ByObject{
		&corev1.Pod{}: {Field: fields.OneTermEqualSelector("spec.nodeName", a.cfg.NodeName)},
	}})
	if err != nil {
		return fmt.Errorf("make the API cache: %w", err)
	}
	// Informers start with the cache only when they have been asked for.
	for _, kind := range []ctrlclient.Object{&corev1.Pod{}, &v1alpha1.Fence{}, &v1alpha1.Migration{}, &v1alpha1.Checkpoint{}} {
		informer, err := a.cache.GetInformer(context.Background(), kind, cache.BlockUntilSynced(false))
		if _, isMigration := kind.(*v1alpha1.Migration); err == nil && isMigration {
			_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
				AddFunc: func(any) { a.changes.tell() }, UpdateFunc: func(any, any) { a.changes.tell() }, DeleteFunc: func(any) { a.changes.tell() },
			})
		}
		if err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
	}
	if a.api, err = ctrlclient.New(kube, ctrlclient.Options{Scheme: scheme}); err != nil {
		return fmt.Errorf("make the API client: %w", err)
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clientset.CoreV1().Events("")})
	a.recorder = broadcaster.NewRecorder(scheme, corev1.EventSource{Component: "lifeboat-checkpointer", Host: a.cfg.NodeName})
	return nil
}

// seeds are the member addresses of all nodes with a fence.
func (a *Agent) seeds(ctx context.Context) []string {
	var fences v1alpha1.FenceList
	if err := a.cache.List(ctx, &fences); err != nil {
		a.log.Error("look for members", "err", err)
		return nil
	}
	var seeds []string
	for _, f := range fences.Items {
		if host, _, err := net.SplitHostPort(f.Status.Facts.PeerAddress); err == nil && f.Name != a.cfg.NodeName {
			seeds = append(seeds, net.JoinHostPort(host, strconv.Itoa(a.cfg.MemberPort)))
		}
	}
	return seeds
}

// publishFacts writes what this node can restore into the status of its fence,
// as soon as the fencer has made it and whenever it has changed.
func (a *Agent) publishFacts(ctx context.Context) error {
	for {
		facts, err := criu.Probe(ctx, a.host)
		if err != nil {
			a.log.Error("probe the node", "err", err)
			facts.Message = err.Error()
		}
		facts.PeerAddress = net.JoinHostPort(a.cfg.NodeIP, strconv.Itoa(a.cfg.PeerPort))
		wait := 10 * time.Minute
		if facts.RuntimeHandlers, err = a.runtime.handlers(ctx); err != nil {
			a.log.Warn("runtime handlers are not known", "err", err)
		}
		if len(facts.RuntimeHandlers) > 0 && !slices.Contains(facts.RuntimeHandlers, v1alpha1.RuntimeHandler) {
			wait = time.Minute // it is being set up
		}
		err = a.patchStatus(ctx, func(status *v1alpha1.FenceStatus) { status.Facts = facts })
		if err != nil {
			a.log.Info("facts not published yet", "err", err)
			wait = time.Second
		} else {
			a.mu.Lock()
			a.facts = facts
			a.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (a *Agent) serveMetrics(ctx context.Context) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(a.metrics)
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	server := &http.Server{Addr: net.JoinHostPort("", strconv.Itoa(a.cfg.MetricsPort)), Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	return ended(ctx, "metrics server", server.ListenAndServe())
}

func serveGRPC(ctx context.Context, server *grpc.Server, port int) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("listen for peers: %w", err)
	}
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	return ended(ctx, "peer server", server.Serve(listener))
}

// shareOfDisk is the size that a store may have when nobody says otherwise: a
// fifth of the file system that it lies on.
func shareOfDisk(dir string) (int64, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("make the store's folder: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, fmt.Errorf("size of the file system of %s: %w", dir, err)
	}
	return int64(stat.Blocks) * stat.Bsize / 5, nil
}

// ended turns the end of a part that must run as long as ctx into an error.
func ended(ctx context.Context, part string, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		return fmt.Errorf("%s ended", part)
	}
	return fmt.Errorf("%s: %w", part, err)
}

// stopsFolder is beside the store's namespaces. It is no name of one.
const stopsFolder = "_stops"

// Folders on the node's tmpfs.
var (
	stagingFolder = filepath.Join(client.Folder, "staging")
	restoreFolder = filepath.Join(client.Folder, "restore")
	// draftFolder has the files of pods that may be restored here soon.
	draftFolder = filepath.Join(client.Folder, "drafts")
)
