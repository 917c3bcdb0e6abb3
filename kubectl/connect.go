package kubectl

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// cluster is a client of the cluster, and the namespace, that kubectl's flags and
// configuration name.
type cluster struct {
	client.WithWatch
	namespace string
	clock     *serverClock
}

// now is the time by the clocks of the cluster.
func (c *cluster) now() time.Time { return c.clock.now() }

func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	return scheme, errors.Join(corev1.AddToScheme(scheme), appsv1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme))
}

// connect makes the client. It asks nothing of the cluster yet.
func (b base) connect() (*cluster, error) {
	namespace, _, err := b.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, fmt.Errorf("find the namespace: %w", err)
	}
	config, err := b.flags.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w; see kubectl config get-contexts", err)
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	clock := &serverClock{}
	config.Wrap(clock.wrap)
	config.WarningHandler = rest.NewWarningWriter(b.streams.ErrOut, rest.WarningWriterOptions{Deduplicate: true})
	api, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	return &cluster{api, namespace, clock}, nil
}

// failed says what was being done when the cluster answered with an error, and what
// to do about it where it did not answer at all or does not know Lifeboat.
func failed(err error, format string, arguments ...any) error {
	var network net.Error
	var request *url.Error
	switch {
	case err == nil:
		return nil
	case meta.IsNoMatchError(err):
		return errors.New("Lifeboat is not installed in this cluster: it does not know the kinds of lifeboat.dev; see docs/installation.md") //nolint:staticcheck // it begins with a name
	case errors.As(err, &request) && errors.As(err, &network):
		return fmt.Errorf("reach the cluster: %w; see kubectl config get-contexts", err)
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, arguments...), err)
}
