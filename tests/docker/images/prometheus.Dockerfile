FROM datasync-test-prometheus
RUN mkdir /prometheus && chown nobody /prometheus
VOLUME /prometheus
USER nobody
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
