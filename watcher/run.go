// Package watcher is the process that notices the loss of nodes, recovers their
// protected pods elsewhere, and admits pods that ask for protection.
package watcher

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	nodepeers "github.com/lifeboat-dev/lifeboat/api/permission/peers"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/identity"
	"github.com/lifeboat-dev/lifeboat/membership"
	"github.com/lifeboat-dev/lifeboat/watcher/admission"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
	"github.com/lifeboat-dev/lifeboat/watcher/httpapi"
	"github.com/lifeboat-dev/lifeboat/watcher/metrics"
	"github.com/lifeboat-dev/lifeboat/watcher/migrate"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
	"github.com/lifeboat-dev/lifeboat/watcher/trigger"
)

// Config is how a watcher runs. All fields are required.
type Config struct {
	// Namespace is Lifeboat's own.
	Namespace string
	// PodName and PodIP are this replica's.
	PodName, PodIP string
	// MetricsAddress serves /metrics, /healthz and /readyz, as ":8080".
	MetricsAddress string
	// WebhookPort serves the admission webhook.
	WebhookPort int
	// APIPort serves the REST API.
	APIPort int
	// MemberPort is the port of the membership, the same on every node.
	MemberPort int
	// Triggers is what moves pods without being asked.
	Triggers trigger.Config
	// Pressure is from when on a node counts as short of something.
	Pressure detect.Pressure
	// Moves bounds how many pods are moved on purpose at a time.
	Moves move.Limits
	// HoldConnections has connections wait while a pod is moved live.
	HoldConnections bool
	// StartedAnew is how often this process has started anew by itself.
	StartedAnew int
	Log         *slog.Logger
}

const (
	// serviceName is the Service under which the API server finds the webhook.
	serviceName = "lifeboat-watcher"

	// The lease of the leader is short: while it is being taken over, no lost node's
	// pods are moved.
	leaseDuration = 6 * time.Second
	renewDeadline = 5 * time.Second
	retryPeriod   = 500 * time.Millisecond

	// The API server's own fairness limits the watcher; after the loss of a full
	// node it has some hundred requests to make at once.
	requestsPerSecond = 200
	requestsAtOnce    = 400

	// What the REST API asks comes on top.
	apiRequestsPerSecond = 50
	apiRequestsAtOnce    = 100
)

// Validate says what is missing in the configuration.
func (c Config) Validate() error {
	var errs []error
	for name, value := range map[string]string{"the namespace": c.Namespace, "the environment variable POD_NAME": c.PodName,
		"the metrics address": c.MetricsAddress} {
		if value == "" {
			errs = append(errs, errors.New(name+" is empty"))
		}
	}
	if net.ParseIP(c.PodIP) == nil {
		errs = append(errs, fmt.Errorf("the environment variable POD_IP is %q, want an IP address", c.PodIP))
	}
	for name, port := range map[string]int{"webhook": c.WebhookPort, "API": c.APIPort, "member": c.MemberPort} {
		if port < 1 || port > 65535 {
			errs = append(errs, fmt.Errorf("the %s port is %d, want 1 to 65535", name, port))
		}
	}
	if c.Moves.PerNode < 1 || c.Moves.Cluster < c.Moves.PerNode {
		errs = append(errs, fmt.Errorf("%d moves at a time of a node and %d in all are not possible, want at least 1, and no fewer in all", c.Moves.PerNode, c.Moves.Cluster))
	}
	return errors.Join(errs...)
}

// Run runs a watcher until ctx ends, which is no error, or it loses the lead, which
// is one. It waits for an API server that cannot be reached; everything else that
// fails at the start ends it with an error.
func Run(ctx context.Context, config Config, api *rest.Config) error {
	if err := config.Validate(); err != nil {
		return err
	}
	log := config.Log
	metrics.StartedAnew(ctrlmetrics.Registry, config.StartedAnew)
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
	api = rest.CopyConfig(api)
	api.QPS, api.Burst = requestsPerSecond, requestsAtOnce

	clientset, err := kubernetes.NewForConfig(api)
	if err != nil {
		return fmt.Errorf("make the API client: %w", err)
	}
	authority, err := ensureIdentity(ctx, clientset, config.Namespace, config.MetricsAddress, log)
	if err != nil {
		return fmt.Errorf("get Lifeboat's identity: %w", err)
	}
	mgr, err := newManager(config, api, authority)
	if err != nil {
		return err
	}
	members, err := membership.New(membership.Config{
		Name: config.PodName, Kind: membership.Watcher, BindAddr: config.PodIP, AdvertiseAddr: config.PodIP, Port: config.MemberPort,
		Key: authority.MemberKey(), Logger: log,
	})
	if err != nil {
		return fmt.Errorf("become a member: %w", err)
	}
	peers, err := authority.ClientTLS(config.PodName)
	if err != nil {
		return fmt.Errorf("make the certificate for peers: %w", err)
	}
	holders := migrate.NewHolders(peers, log)
	defer holders.Close()
	asked := nodepeers.NewClient(peers)
	defer asked.Close()

	driver := &migrate.Driver{
		Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Events: mgr.GetEventRecorder("lifeboat-watcher"),
		Members: members, Holders: holders, Peers: asked, Metrics: metrics.New(ctrlmetrics.Registry),
		Terms: permission.Default, Moves: config.Moves, HoldConnections: config.HoldConnections, Pressure: config.Pressure, Namespace: config.Namespace, Log: log,
	}
	if err := driver.SetupWithManager(ctx, mgr); err != nil {
		return err
	}
	if err := addTriggers(mgr, config.Triggers, driver, log); err != nil {
		return err
	}
	mgr.GetWebhookServer().Register(admission.Path, admission.OneReviewPerConnection(&webhook.Admission{Handler: admission.Handler{}}))
	served, err := newAPI(config, api, mgr, authority)
	if err != nil {
		return err
	}
	everywhere := []manager.Runnable{
		served,
		&admission.Bundle{Clientset: clientset, CA: authority.CABundle(), Log: log},
		migrate.OnEveryReplica(func(ctx context.Context) error {
			return members.Run(ctx, seeds(mgr.GetClient(), config, log))
		}),
	}
	for _, runnable := range everywhere {
		if err := mgr.Add(runnable); err != nil {
			return fmt.Errorf("set up the watcher: %w", err)
		}
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("run the watcher: %w", err)
	}
	return nil
}

// newAPI is the REST API. It calls the API server with limits of its own: what people
// and programs ask must not hold up a recovery.
func newAPI(config Config, api *rest.Config, mgr manager.Manager, authority *identity.Authority) (*httpapi.Server, error) {
	api = rest.CopyConfig(api)
	api.QPS, api.Burst = apiRequestsPerSecond, apiRequestsAtOnce
	asker, err := client.NewWithWatch(api, client.Options{Scheme: mgr.GetScheme()})
	if err != nil {
		return nil, fmt.Errorf("make the REST API's client: %w", err)
	}
	clientset, err := kubernetes.NewForConfig(api)
	if err != nil {
		return nil, fmt.Errorf("make the REST API's client: %w", err)
	}
	served, err := authority.WebhookTLS(serviceName + "." + config.Namespace + ".svc")
	if err != nil {
		return nil, fmt.Errorf("make the REST API's certificate: %w", err)
	}
	return &httpapi.Server{
		Service: httpapi.Service{Cache: mgr.GetCache(), Client: asker, Clientset: clientset, Namespace: config.Namespace, Log: config.Log,
			Requests: metrics.NewRequests(ctrlmetrics.Registry)},
		Address: net.JoinHostPort("", strconv.Itoa(config.APIPort)), TLS: served,
	}, nil
}

func newManager(config Config, api *rest.Config, authority *identity.Authority) (manager.Manager, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("make the API scheme: %w", err)
		}
	}
	served, err := authority.WebhookTLS(serviceName + "." + config.Namespace + ".svc")
	if err != nil {
		return nil, fmt.Errorf("make the webhook's certificate: %w", err)
	}
	hooks := webhook.NewServer(webhook.Options{Port: config.WebhookPort, TLSOpts: []func(*tls.Config){func(c *tls.Config) {
		c.MinVersion = served.MinVersion
		c.GetCertificate = served.GetCertificate
	}}})
	health := &health{}
	mgr, err := manager.New(api, manager.Options{
		Scheme: scheme,
		Logger: logr.FromSlogHandler(config.Log.Handler()),
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Pod{}:           {Transform: protectedOnly},
				&coordinationv1.Lease{}: {Namespaces: map[string]cache.Config{corev1.NamespaceNodeLease: {}}},
				&corev1.ConfigMap{}: {Namespaces: map[string]cache.Config{config.Namespace: {
					FieldSelector: fields.OneTermEqualSelector("metadata.name", v1alpha1.ConfigName),
				}}},
			},
		},
		WebhookServer: hooks,
		Metrics: metricsserver.Options{BindAddress: config.MetricsAddress, ExtraHandlers: map[string]http.Handler{
			"/healthz": http.HandlerFunc(health.alive), "/readyz": http.HandlerFunc(health.ready),
		}},
		HealthProbeBindAddress:        "0", // served beside the metrics
		LeaderElection:                true,
		LeaderElectionID:              migrate.LeaseName,
		LeaderElectionNamespace:       config.Namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 ptr.To(leaseDuration),
		RenewDeadline:                 ptr.To(renewDeadline),
		RetryPeriod:                   ptr.To(retryPeriod),
		GracefulShutdownTimeout:       ptr.To(5 * time.Second),
	})
	if err != nil {
		return nil, fmt.Errorf("make the manager: %w", err)
	}
	health.cache, health.webhook = mgr.GetCache(), hooks
	return mgr, nil
}

// protectedOnly keeps of pods that have none of Lifeboat's annotations just who
// they are: a cluster has many, and they are none of our business.
func protectedOnly(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	pod.ManagedFields = nil
	if p, err := v1alpha1.ParseAnnotations(pod.Annotations); err != nil || p.Protected {
		return pod, nil
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		CreationTimestamp: pod.CreationTimestamp, OwnerReferences: pod.OwnerReferences,
	}}, nil
}

// seeds are the addresses at which members may be: each node's checkpointer.
// Through them the watchers find each other.
func seeds(reader client.Reader, config Config, log *slog.Logger) func(context.Context) []string {
	return func(ctx context.Context) []string {
		var list corev1.NodeList
		if err := reader.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
			log.Warn("members cannot be looked for", "error", err)
			return nil
		}
		var seeds []string
		for _, node := range list.Items {
			for _, address := range node.Status.Addresses {
				if address.Type == corev1.NodeInternalIP {
					seeds = append(seeds, net.JoinHostPort(address.Address, strconv.Itoa(config.MemberPort)))
				}
			}
		}
		return seeds
	}
}
