FROM asv-stand-in-debian
COPY nats-server /usr/local/bin/nats-server
RUN ln -s /usr/bin/busybox /usr/local/bin/wget
EXPOSE 4222 8222 6222
ENTRYPOINT ["nats-server"]
CMD ["--config", "/etc/nats/nats-server.conf"]
