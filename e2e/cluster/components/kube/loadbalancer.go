package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// loadBalancer stands in for that of a cloud: every Service of type LoadBalancer
// is given its own cluster IP as its address, which the node routes, or the
// address of the pool that its spec.loadBalancerIP asks for. One that asks for
// another gets none.
func loadBalancer(arguments []string) error {
	flags := flag.NewFlagSet("load-balancer", flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "how to reach the API")
	pool := flags.String("pool", "198.19.255.64/26", "addresses that Services may ask for")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	_, given, err := net.ParseCIDR(*pool)
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	assign := func(object any) {
		service, ok := object.(*v1.Service)
		if !ok || service.Spec.Type != v1.ServiceTypeLoadBalancer || net.ParseIP(service.Spec.ClusterIP) == nil {
			return
		}
		address, has := addressOf(service, given), service.Status.LoadBalancer.Ingress
		if address == "" && len(has) == 0 || len(has) == 1 && has[0].IP == address {
			return
		}
		service = service.DeepCopy()
		service.Status.LoadBalancer.Ingress = nil
		if address != "" {
			service.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: address}}
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		// What fails is tried again by the resync.
		if _, err := client.CoreV1().Services(service.Namespace).UpdateStatus(ctx, service, metav1.UpdateOptions{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	factory := informers.NewSharedInformerFactory(client, 2*time.Second)
	_, err = factory.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: assign, UpdateFunc: func(_, object any) { assign(object) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
	return nil
}

// addressOf is what a Service is given, empty for none.
func addressOf(service *v1.Service, pool *net.IPNet) string {
	asked := net.ParseIP(service.Spec.LoadBalancerIP)
	switch {
	case service.Spec.LoadBalancerIP == "":
		return service.Spec.ClusterIP
	case asked != nil && pool.Contains(asked):
		return asked.String()
	default:
		return ""
	}
}
