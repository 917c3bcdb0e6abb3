package fence

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages/keeper"
)

// The node as a privileged pod in its pid namespace sees it.
const (
	nodeCgroupRoot = "/proc/1/root/sys/fs/cgroup"
	nodeProc       = "/proc/1/root/proc"
)

// Run keeps the fence of a node until ctx ends, and serves its metrics. It
// hardens the process first; see Harden. It leaves pods frozen that are frozen
// when it ends. It returns an error only before it has begun.
//
// Api needs leave to get, create and patch Fences.
func Run(ctx context.Context, config Config, api *rest.Config, log *slog.Logger) error {
	config, err := config.complete()
	if err != nil {
		return err
	}
	logging, stopLogging := context.WithCancel(context.WithoutCancel(ctx))
	log, logged := neverWait(logging, log.With("node", config.NodeName))
	defer func() {
		stopLogging()
		select {
		case <-logged:
		case <-time.After(time.Second): // nobody reads the log any more
		}
	}()
	registry := prometheus.NewRegistry()
	f, err := newFencer(config, api, newMetrics(registry), log)
	if err != nil {
		return err
	}
	for _, refused := range Harden(config.CgroupRoot) {
		log.Warn("the node withholds a privilege: under great load pods may be frozen late", "err", refused)
	}
	go serveMetrics(ctx, config.MetricsPort, registry, log)
	go f.serveVoucher(ctx, config.VoucherPort)
	kept := make(chan error, 1)
	go func() { kept <- keep(ctx, config, log) }()
	f.run(ctx)
	if err := <-kept; err != nil {
		log.Error("nothing was kept for restores", "err", err)
	}
	return nil
}

// keep holds, beside the fence, what must outlive the checkpointer: the handles on
// memory of restored containers that is still to be filled in. This process is
// the one on the node that ends last. A container whose memory nobody can fill in
// any more is killed.
func keep(ctx context.Context, config Config, log *slog.Logger) error {
	kill := func(d keeper.Description) error {
		group, err := cgroup.ForPath(config.CgroupRoot, d.CgroupsPath)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), orderTime)
		defer cancel()
		return group.Kill(ctx)
	}
	return keeper.NewServer(kill, log).Run(ctx, filepath.Join(config.Folder, filepath.Base(client.KeeperSocketPath)))
}

// complete fills in the defaults.
func (c Config) complete() (Config, error) {
	if c.Terms == (permission.Terms{}) {
		c.Terms = permission.Default
	}
	if c.Folder == "" {
		c.Folder = client.Folder
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = nodeCgroupRoot
	}
	if c.MetricsPort == 0 {
		c.MetricsPort = permission.FencerPort
	}
	if c.VoucherPort == 0 {
		c.VoucherPort = permission.VoucherPort
	}
	if c.BootID == "" {
		id, err := BootID(nodeProc)
		if err != nil {
			return c, err
		}
		c.BootID = id
	}
	return c, nil
}

// serveMetrics serves until ctx ends. A fencer without metrics still fences, so
// that a taken port is logged and no more.
func serveMetrics(ctx context.Context, port int, registry *prometheus.Registry, log *slog.Logger) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Addr: ":" + strconv.Itoa(port), Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Error("the fencer's metrics are not served; free the port or set another one", "port", port, "err", err)
	}
}
