package client

import "syscall"

var noRoute = syscall.EHOSTUNREACH
