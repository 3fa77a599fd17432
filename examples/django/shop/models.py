from django.db import models


class Order(models.Model):
    id = models.BigIntegerField(primary_key=True)
    note = models.TextField()

    class Meta:
        db_table = "orders"


class OrderEvent(models.Model):
    order = models.ForeignKey(Order, models.CASCADE)
    note = models.TextField()

    class Meta:
        db_table = "order_events"
