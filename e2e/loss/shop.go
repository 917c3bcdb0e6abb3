// Package loss sets up a shopping cart with a shopper, takes the power from the
// cart's node, and records what came back, when, and what did not.
package loss

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// Shop is a cart and its shopper in a namespace of their own.
type Shop struct {
	Cluster   *cluster.Cluster
	Client    client.Client
	Namespace string
	// ShopperArgs are further arguments of the shopper.
	ShopperArgs []string
	// AfterCut, when set, is called as soon as the power is cut.
	AfterCut func(ctx context.Context, lost *corev1.Pod) error

	// seeded are carts that were filled once and never changed since.
	seeded map[string][]cart.Item
	// shoppers is how many were sent. Each fills a cart of its own: all begin with the
	// same items, and what one has put into a cart would hide what the next one misses.
	shoppers int
}

// How the shop is filled before the shopper comes.
const (
	seededCarts = 12
	seededItems = 20
)

// Open creates the namespace if needed, the cart's Service and its owner,
// and fills some carts that stay as they are.
func (s *Shop) Open(ctx context.Context, owner client.Object) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.Namespace}}
	for _, object := range []client.Object{namespace, workload.Service(s.Namespace), owner} {
		if err := s.Client.Create(ctx, object); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create %T %s: %w", object, object.GetName(), err)
		}
	}
	pod, err := observe.ReadyPod(ctx, s.Client, s.Namespace, workload.Labels)
	if err != nil {
		return err
	}
	s.seeded = map[string][]cart.Item{}
	for c := range seededCarts {
		name := fmt.Sprintf("customer-%02d", c+1)
		for i := range seededItems {
			item := cart.Item{SKU: fmt.Sprintf("book-%02d", i+1), Quantity: 1 + (c+i)%5}
			if _, err := s.At(pod).Add(ctx, name, item); err != nil {
				return fmt.Errorf("fill the carts: %w", err)
			}
			s.seeded[name] = append(s.seeded[name], item)
		}
	}
	return nil
}

// At returns a client of the cart or the shopper in a pod.
func (s *Shop) At(pod *corev1.Pod) cart.Client { return ClientAt(s.Cluster, pod, workload.Port) }

// ClientAt returns a client of a cart that listens on a port of a pod.
func ClientAt(c *cluster.Cluster, pod *corev1.Pod, port int) cart.Client {
	return cart.Client{
		URL: "http://" + net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(port)),
		HTTP: &http.Client{
			Timeout:   5 * time.Second,
			Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true},
		},
	}
}

// StartShopper sends a shopper and waits until as many generations of the cart are
// durable as asked for, all of them taken after the shopper's first item.
func (s *Shop) StartShopper(ctx context.Context, generations int64) error {
	pod, err := s.SendShopper(ctx)
	if err != nil {
		return err
	}
	checkpoint := &v1alpha1.Checkpoint{}
	if err := client.IgnoreNotFound(s.Client.Get(ctx, client.ObjectKeyFromObject(pod), checkpoint)); err != nil {
		return fmt.Errorf("read the Checkpoint of pod %s: %w", pod.Name, err)
	}
	base := checkpoint.Status.Generation
	if checkpoint.Spec.PodUID != pod.UID {
		base = 0
	}
	// The one that may be under way was begun before the first item.
	_, err = observe.Durable(ctx, s.Client, pod, base+1+generations)
	return err
}

// SendShopper starts a shopper on a node other than the cart's, waits until it has
// shopped, and returns the cart's pod.
func (s *Shop) SendShopper(ctx context.Context) (*corev1.Pod, error) {
	pod, err := observe.ReadyPod(ctx, s.Client, s.Namespace, workload.Labels)
	if err != nil {
		return nil, err
	}
	nodes, err := s.Cluster.Nodes()
	if err != nil {
		return nil, fmt.Errorf("choose a node for the shopper: %w", err)
	}
	node := ""
	for _, n := range nodes {
		if n.Name != pod.Spec.NodeName && n.PoweredOn {
			node = n.Name
		}
	}
	if node == "" {
		return nil, fmt.Errorf("the shopper needs a node other than %s", pod.Spec.NodeName)
	}
	s.shoppers++
	visitor := workload.ShopperPod(s.Namespace, node)
	visitor.Spec.Containers[0].Args = append(visitor.Spec.Containers[0].Args, fmt.Sprintf("--cart=shopper-%d", s.shoppers))
	visitor.Spec.Containers[0].Args = append(visitor.Spec.Containers[0].Args, s.ShopperArgs...)
	if err := s.Client.Create(ctx, visitor); err != nil {
		return nil, fmt.Errorf("create the shopper: %w", err)
	}
	shopper, err := observe.ReadyPod(ctx, s.Client, s.Namespace, workload.ShopperLabels)
	if err != nil {
		return nil, err
	}
	err = observe.Until(ctx, "the shopper has put an item into the cart", func(ctx context.Context) (bool, string, error) {
		status, err := s.At(shopper).Status(ctx)
		return status.Acked > 0, fmt.Sprintf("%d attempts", status.Attempts), err
	})
	return pod, err
}

// StopShopper removes the shopper, and waits until it is gone.
func (s *Shop) StopShopper(ctx context.Context) error {
	shopper := workload.ShopperPod(s.Namespace, "")
	if err := s.Client.Delete(ctx, shopper, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete the shopper: %w", err)
	}
	return observe.Until(ctx, "the shopper is gone", func(ctx context.Context) (bool, string, error) {
		err := s.Client.Get(ctx, client.ObjectKeyFromObject(shopper), &corev1.Pod{})
		if apierrors.IsNotFound(err) {
			return true, "", nil
		}
		return false, "it is there", err
	})
}
