// Command cart is the shopping cart of the local cluster: "cart serve" is the
// service, "cart shop" a client that fills one cart and takes note of every answer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cart"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		slog.Error("cart stopped", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(`say what to do: "serve" or "shop"`)
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	listen := flags.String("listen", ":8080", "address to listen on")
	switch args[0] {
	case "serve":
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		carts := cart.New()
		slog.Info("the cart is born", "birth", carts.Life().Birth)
		go tick(ctx, carts)
		return serve(ctx, *listen, carts.Handler())
	case "shop":
		service := flags.String("service", "", "URL of the cart service")
		id := flags.String("cart", "alice", "cart to fill")
		every := flags.Duration("every", 25*time.Millisecond, "pause between two requests")
		timeout := flags.Duration("timeout", 250*time.Millisecond, "what one request may take")
		fresh := flags.Bool("new-connections", false, "make a new connection for each request")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if *service == "" {
			return errors.New("--service must name the cart service, as http://10.96.0.7:80")
		}
		client := cart.ShopperHTTP(*timeout)
		client.Transport.(*http.Transport).DisableKeepAlives = *fresh
		shopper := &cart.Shopper{
			Service: cart.Client{URL: *service, HTTP: client},
			Cart:    *id, Every: *every, Timeout: *timeout,
		}
		go shopper.Run(ctx)
		return serve(ctx, *listen, shopper.Handler())
	}
	return fmt.Errorf(`%q is not something to do: use "serve" or "shop"`, args[0])
}

func tick(ctx context.Context, carts *cart.Store) {
	ticker := time.NewTicker(cart.TickEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			carts.Tick()
		}
	}
}

func serve(ctx context.Context, address string, handler http.Handler) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	slog.Info("listening", "address", listener.Addr().String())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(listener) }()
	select {
	case err := <-stopped:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	shutdown, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(shutdown); err != nil {
		return fmt.Errorf("stop serving: %w", err)
	}
	return nil
}
